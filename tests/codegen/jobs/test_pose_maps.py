"""Networks whose maps or inputs are not the usual ones, compiled and run on a photo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Graphopt
from onnx import numpy_helper, parser
from PIL import Image

from graphopt.errors import InputError
from graphopt.pose.estimate import Estimator
from graphopt.pose.open import open_engine
from graphopt.runtime.synthetic_images import natural_photo

SHAPES = {"w": (8, 3, 8, 8), "wa": (19, 8, 1, 1), "wb": (38, 8, 1, 1)}
USUAL = ("y = Conv(f, wa) z = Conv(f, wb)", "float[1,19,8,8] y, float[1,38,8,8] z")
LAST = (
    "a = Conv(f, wa) b = Conv(f, wb) y = Transpose<perm=[0,2,3,1]>(a) "
    "z = Transpose<perm=[0,2,3,1]>(b)",
    "float[1,8,8,19] y, float[1,8,8,38] z",
)
LARGER = (
    "a = ConvTranspose<strides=[2,2]>(g, wt) y = Conv(a, wa) z = Conv(a, wb)",
    "float[1,19,128,128] y, float[1,38,128,128] z",
)
ALONE = ("y = Conv(f, wa)", "float[1,19,8,8] y")


@pytest.fixture
def net(tmp_path: Path) -> Callable[..., Path]:
    """A network of an input [1,3,64,64] and maps of 8 x 8, random weights."""

    def make(maps: tuple[str, str], dtype: str = "float") -> Path:
        rng = np.random.default_rng(0)
        body, outputs = maps
        first = {"float": "g = Identity(x)"}.get(dtype, "g = Cast<to=1>(x)")
        model = parser.parse_model(
            f'<ir_version: 8, opset_import: ["": 17]> g ({dtype}[1,3,64,64] x) => ({outputs}) '
            f"{{ {first} f = Conv<strides=[8,8]>(g, w) {body} }}"
        )
        shapes = SHAPES | ({"wt": (3, 8, 2, 2)} if maps is LARGER else {})
        model.graph.initializer.extend(
            numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
            for n, s in shapes.items()
        )
        onnx.save(model, tmp_path / "net.onnx")
        return tmp_path / "net.onnx"

    return make


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = natural_photo(80, 60).astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize(
    ("maps", "dtype", "left"),
    [
        (USUAL, "float", ""),
        (LAST, "float", "left to the host's CPU: decoding"),
        (USUAL, "uint8", "left to the host's CPU: pre-processing"),
    ],
)
def test_a_bundle_finds_the_same_people(
    net: Callable[..., Path],
    photo: Path,
    graphopt: Graphopt,
    tmp_path: Path,
    maps: tuple[str, str],
    dtype: str,
    left: str,
) -> None:
    """Remarks about guesses come when it is compiled, and when the ONNX file itself is run."""
    model = net(maps, dtype)
    code, _, remarks = graphopt("compile", model, "-o", tmp_path / "b")
    assert code == 0, remarks
    assert remarks.count("guessed: color") == 1
    assert left in remarks
    assert left or "left to" not in remarks
    code, found, remarks = graphopt("run", tmp_path / "b", photo, photo)
    assert (code, remarks) == (0, "")  # of two photos, no empty line of a progress bar either
    assert found.count("photo.png") == found.count("\n") == 2
    code, found, remarks = graphopt("run", tmp_path / "b", photo)
    code, reference, remarks = graphopt("run", model, photo)
    assert code == 0
    assert remarks.count("guessed: color") == 1
    assert found.rsplit(",", 1)[0] == reference.rsplit(",", 1)[0]
    with Image.open(photo) as image:
        rgb = image.convert("RGB")
    people = [
        [p.keypoints for p in Estimator(*open_engine(path))(rgb).people]
        for path in (tmp_path / "b", model)
    ]
    assert len(people[0]) == len(people[1]) > 0
    np.testing.assert_allclose(people[0], people[1], atol=0.1)


def test_maps_larger_than_the_input_compile_without_poses(
    net: Callable[..., Path],
    photo: Path,
    graphopt: Graphopt,
    tmp_path: Path,
) -> None:
    model = net(LARGER)
    code, _, remarks = graphopt("compile", model, "-o", tmp_path / "b")
    assert code == 0, remarks
    assert "no pose maps recognised" in remarks
    assert "the maps y of 128x128 are larger than the input of 64x64" in remarks
    code, _, remarks = graphopt("run", model, photo)
    assert code == 4
    assert "are larger than the input" in remarks
    assert "Traceback" not in remarks
    code, _, remarks = graphopt("run", tmp_path / "b", photo)
    assert code == 1
    assert "compile it again with --maps" in remarks


def test_what_maps_says_is_compiled_in(
    net: Callable[..., Path], graphopt: Graphopt, tmp_path: Path
) -> None:
    """19 maps of somebody, unusually after the others; a bundle takes no other maps."""
    model = net(ALONE)
    code, _, remarks = graphopt(
        "compile", model, "-o", tmp_path / "b", "--maps", "heat=y[2:19]", "--skeleton", "coco17"
    )
    assert code == 0, remarks
    assert "skeleton" not in remarks
    _, spec = open_engine(tmp_path / "b")
    assert (spec.skeleton.name, spec.heat.first, spec.heat.count) == ("coco17", 2, 17)
    with pytest.raises(InputError, match="a bundle reads the maps that it was compiled for"):
        open_engine(tmp_path / "b", maps="heat=y")
    code, _, remarks = graphopt("compile", model, "-o", tmp_path / "c", "--maps", "heat=nose")
    assert code == 2
    assert "no output with maps" in remarks
    assert not (tmp_path / "c").exists()
