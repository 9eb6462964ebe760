"""Photos into inputs, and coordinates back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from graphopt.errors import InputError
from graphopt.pose.images import as_rgb, read_photo
from graphopt.pose.preprocess import prepare
from graphopt.pose.spec import Preprocess

RAW = Preprocess(color="rgb", mean=(0, 0, 0), scale=(1, 1, 1))


@pytest.mark.parametrize(
    ("size", "shape", "expected"),
    [
        ((640, 480), (None, None), (368, 496)),  # 490.67 columns, up to a multiple of 8
        ((480, 640), (None, None), (368, 368)),  # at least as wide as high
        ((640, 480), (368, 656), (368, 656)),
        ((1000, 200), (368, 656), (368, 656)),
        ((640, 480), (256, None), (256, 344)),
        ((1, 1), (None, None), (368, 368)),
        ((900, 1), (None, None), (8, 2944)),  # a strip does not grow without bounds
        ((1, 900), (None, None), (368, 368)),
    ],
)
def test_input_sizes(
    size: tuple[int, int], shape: tuple[int | None, int | None], expected: tuple[int, int]
) -> None:
    tensor, placement = prepare(Image.new("RGB", size), RAW, shape)
    assert tensor.shape == (1, 3, *expected)
    assert tensor.dtype == np.float32
    corners = placement.to_input(np.array([(-0.5, -0.5), (size[0] - 0.5, size[1] - 0.5)]))
    assert (corners >= -0.5).all()
    assert (corners <= np.array(expected[::-1]) - 0.5).all()


@settings(deadline=None)
@given(
    width=st.integers(1, 900),
    height=st.integers(1, 900),
    fixed=st.booleans(),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
)
def test_there_and_back(width: int, height: int, fixed: bool, x: float, y: float) -> None:
    shape = (128, 192) if fixed else (None, None)
    small = replace(RAW, height=64)
    _, placement = prepare(Image.new("L", (width, height)).convert("RGB"), small, shape)
    point = np.array([x * (width - 1), y * (height - 1)])
    assert np.allclose(placement.to_photo(placement.to_input(point)), point, atol=1e-6)


@pytest.mark.parametrize("shape", [(None, None), (368, 656)])
def test_a_dot_is_where_the_placement_says(shape: tuple[int | None, int | None]) -> None:
    pixels = np.zeros((300, 500, 3), np.uint8)
    pixels[98:105, 398:405] = 255
    dark = replace(RAW, pad_value=0.0)
    tensor, placement = prepare(Image.fromarray(pixels), dark, shape)
    weight = tensor[0, 0]
    y, x = np.indices(weight.shape)
    centre = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
    assert np.abs(placement.to_photo(centre) - (401, 101)).max() < 0.1


def test_colour_normalisation_and_border() -> None:
    photo = Image.new("RGB", (100, 200), (200, 100, 50))
    normalise = Preprocess(
        color="bgr", mean=(10, 20, 30), scale=(1, 0.5, 0.1), pad_value=128, height=64
    )
    tensor, _ = prepare(photo, normalise)
    assert np.allclose(tensor[0, :, 32, 32], [40, 40, 17])
    assert np.allclose(tensor[0, :, 32, 0], [118, 54, 9.8])


def test_exif_turns_the_photo(tmp_path: Path) -> None:
    photo = Image.new("RGB", (60, 40), "black")
    photo.paste("white", (0, 0, 30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    photo.save(tmp_path / "turned.png", exif=exif)
    upright = read_photo(tmp_path / "turned.png")
    assert upright.size == (40, 60)
    assert upright.getpixel((35, 5)) == (255, 255, 255)
    assert upright.getpixel((5, 5)) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    grey = Image.new("L", (8, 8), 255)
    if mode == "I;16":
        photo = Image.fromarray(np.full((8, 8), 65535, np.uint16))
    else:
        photo = grey.convert("RGB").convert(mode)
    file = tmp_path / ("photo.tiff" if mode == "CMYK" else "photo.png")
    photo.save(file)
    assert Image.open(file).mode.startswith(mode[0])
    read = read_photo(file)
    assert read.mode == "RGB"
    assert np.asarray(read).min() > 250


def test_what_is_no_photo(tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    Image.effect_noise((64, 64), 50).save(file)
    whole = file.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(InputError, match="no photo that can be read"):
            read_photo(file)
    with pytest.raises(InputError, match="does not exist"):
        read_photo(tmp_path / "none.jpg")


def gradient(depth: int = 255) -> np.ndarray:
    """Greys from black to white."""
    return np.asarray(np.linspace(0, depth, 64 * 48).reshape(48, 64).round())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGBA", "RGBa", "CMYK", "YCbCr"])
def test_a_photo_is_what_pillow_converts_it_to(mode: str) -> None:
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (48, 64, 4), np.uint8), "RGBA")
    step = {"La": "LA", "PA": "P", "RGBa": "RGBA", "LA": "RGBA"}.get(mode, "RGB")
    photo = (colours if step == "RGBA" else colours.convert("RGB")).convert(step).convert(mode)
    assert photo.mode == mode
    wanted = (photo.convert("LA") if mode == "La" else photo).convert("RGB")
    np.testing.assert_array_equal(np.asarray(as_rgb(photo)), np.asarray(wanted))
    got, placement = prepare(photo, RAW)
    expected, other = prepare(wanted, RAW)
    np.testing.assert_array_equal(got, expected)
    assert placement == other


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4"])
def test_sixteen_bits_become_eight(dtype: str, tmp_path: Path) -> None:
    values = gradient(65535)
    photo = Image.fromarray(values.astype(dtype))
    wanted = np.repeat((values / 257).round().astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(np.asarray(as_rgb(photo)), wanted)
    photo.save(tmp_path / "photo.tiff")
    np.testing.assert_array_equal(np.asarray(read_photo(tmp_path / "photo.tiff")), wanted)


@pytest.mark.parametrize("dtype", ["<i4", "<f4"])
def test_eight_bits_in_wider_numbers(dtype: str, tmp_path: Path) -> None:
    photo = Image.fromarray(gradient().astype(dtype))
    wanted = np.asarray(photo.convert("RGB"))
    assert wanted.max() == 255
    photo.save(tmp_path / "photo.tiff")
    np.testing.assert_array_equal(np.asarray(read_photo(tmp_path / "photo.tiff")), wanted)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("<f4", 0, 1), ("<f4", 0, 4000), ("<f4", -1, 1), ("<f4", 0, np.nan), ("<i4", 0, 1e6)],
)
def test_greys_of_unknown_white_are_refused(
    tmp_path: Path, dtype: str, low: float, high: float
) -> None:
    values = gradient() / 255 * (high - low) + low
    Image.fromarray(values.astype(dtype)).save(tmp_path / "photo.tiff")
    with pytest.raises(InputError, match=r"photo\.tiff: .*white cannot be told"):
        read_photo(tmp_path / "photo.tiff")


def test_a_hundred_megapixels_are_read(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    Image.new("L", (12_000, 9_000)).save(tmp_path / "large.png")
    assert read_photo(tmp_path / "large.png").size == (12_000, 9_000)
    assert not recwarn.list


def test_what_is_absurdly_large_is_refused(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match=r"bomb\.png is no photo that can be read: .*exceeds"):
        read_photo(tmp_path / "bomb.png")
