"""A photo's pixels are those that it has, wherever they lie."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from PIL import Image

from graphopt.pose.pixels import pixels_of


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(5, 3), (1, 1), (2600, 2000)], ids=["small", "one", "in pieces"])
def test_four_bytes_are_three_and_one(size: tuple[int, int]) -> None:
    photo = picture(*size)
    expected = np.asarray(photo)
    found = pixels_of(photo, 4).reshape(*expected.shape[:2], 4)
    np.testing.assert_array_equal(found[..., :3], expected)
    np.testing.assert_array_equal(pixels_of(photo, 3), expected.reshape(-1))


def test_older_pillows_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = picture(5, 3)
    shown = pixels_of(photo, 4).copy()
    monkeypatch.delattr(Image.Image, "__arrow_c_array__", raising=False)
    copied = pixels_of(photo, 4)
    np.testing.assert_array_equal(copied.reshape(-1, 4)[:, :3], shown.reshape(-1, 4)[:, :3])


def test_pixels_outlive_their_photo() -> None:
    photo = picture(300, 200)
    expected = np.asarray(photo).copy()
    found = pixels_of(photo, 4)
    del photo
    gc.collect()
    again = [picture(300, 200) for _ in range(3)]
    np.testing.assert_array_equal(found.reshape(200, 300, 4)[..., :3], expected)
    assert again
