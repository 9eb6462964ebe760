"""Photos of every mode through a bundle: the same people as in their colours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import Graphopt
from PIL import Image

from graphopt.pose.estimate import Estimator
from graphopt.pose.open import open_engine

ROOT = Path(__file__).resolve().parents[2]
TARGETS = pytest.mark.parametrize(
    "target", ["cpu", pytest.param("opencl", marks=pytest.mark.opencl)]
)


def demo() -> Image.Image:
    whole = Image.open(ROOT / "examples" / "demo.png").convert("RGB")
    return whole.resize((whole.width // 2, whole.height // 2))


@TARGETS
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F"])
def test_a_photo_of_any_mode_is_what_its_colours_are(
    bundle: Callable[..., Path], target: str, mode: str
) -> None:
    whole = demo()
    if mode == "I;16":
        deep = np.asarray(whole.convert("L")).astype(np.uint16) * 257
        photo, colours = Image.fromarray(deep), whole.convert("L").convert("RGB")
    else:
        photo = whole.convert("L").convert(mode) if mode in ("I", "F") else whole.convert(mode)
        colours = photo.convert("RGB")
    if mode == "RGBA":
        photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    assert photo.mode == mode
    estimator = Estimator(*open_engine(bundle(target)))
    found, wanted = (estimator(each).people for each in (photo, colours))
    assert len(found) == len(wanted) > (mode not in ("1", "P"))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.keypoints, other.keypoints)


def test_files_of_any_mode(bundle: Callable[..., Path], tmp_path: Path, graphopt: Graphopt) -> None:
    colours, grey = demo(), demo().convert("L")
    clear = colours.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    photos = {"clear.png": clear, "print.tiff": colours.convert("CMYK"), "deep.png": deep}
    plain = {"clear.png": colours, "print.tiff": colours.convert("CMYK").convert("RGB")}
    people: list[list[object]] = []
    for kind in (photos, plain | {"deep.png": grey.convert("RGB")}):
        folder = tmp_path / str(len(people))
        folder.mkdir()
        for name, photo in kind.items():
            photo.save(folder / name)
        found = folder.with_suffix(".json")
        assert graphopt("run", bundle("cpu"), folder, "--json", found).code == 0
        people.append([photo["people"] for photo in json.loads(found.read_text())])
    assert people[0] == people[1]
    assert all(people[0])


def test_what_cannot_be_read_is_a_sentence(
    bundle: Callable[..., Path], tmp_path: Path, graphopt: Graphopt
) -> None:
    demo().save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(
        tmp_path / "float.tiff"
    )
    for name, reason in {"cut.jpg": "truncated", "float.tiff": "white cannot be told"}.items():
        code, _, said = graphopt("run", bundle("cpu"), tmp_path / name)
        assert code == 1
        assert name in said
        assert reason in said
        assert "Traceback" not in said
