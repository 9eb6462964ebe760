"""The Python interface: `graphopt.load`, and calling what it gives."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import graphopt
from graphopt.errors import InputError, UsageError
from graphopt.pose.estimate import Estimator
from graphopt.pose.open import open_engine

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEMO, PHOTO = EXAMPLES / "demo.onnx", EXAMPLES / "demo.png"


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return np.asarray(Image.open(PHOTO).convert("RGB"))


@pytest.fixture(scope="module")
def model() -> Iterator[graphopt.Model]:
    with graphopt.load(DEMO, threads=1) as opened:
        yield opened


def same(one: graphopt.FoundPoses, other: graphopt.FoundPoses) -> None:
    assert len(one.people) == len(other.people) > 0
    for a, b in zip(one.people, other.people, strict=True):
        np.testing.assert_array_equal(a.keypoints, b.keypoints)


def test_every_form_of_a_photo_gives_the_same_people(
    model: graphopt.Model, pixels: NDArray[np.uint8]
) -> None:
    found = model(PHOTO)
    expected = Estimator(*open_engine(DEMO, threads=1))(Image.open(PHOTO).convert("RGB"))
    assert len(found.people) == len(expected.people) > 0
    assert found.people[0].keypoints.shape == (len(model.skeleton.parts), 3)
    for form in (str(PHOTO), pixels, Image.open(PHOTO)):
        same(model(form), found)
    same(model(np.ascontiguousarray(pixels[:, :, ::-1]), bgr=True), found)
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    same(model(opaque), found)


def test_lists_and_streams(model: graphopt.Model, pixels: NDArray[np.uint8]) -> None:
    found = model([pixels, PHOTO])
    assert len(found) == 2
    same(*found)
    asked = []

    def frames() -> Iterator[NDArray[np.uint8]]:
        for number in range(3):
            asked.append(number)
            yield pixels

    stream = model(frames())
    same(next(stream), found[0])
    assert asked == [0], "frames are read as answers are asked for"


def test_grey_pixels_are_taken_for_rgb(model: graphopt.Model, pixels: NDArray[np.uint8]) -> None:
    grey = np.asarray(Image.open(PHOTO).convert("L"))
    as_colours = model(np.dstack([grey] * 3))
    assert len(model(grey).people) == len(model(grey[:, :, None]).people) == len(as_colours.people)


def test_what_people_can_do(model: graphopt.Model, pixels: NDArray[np.uint8]) -> None:
    found = model(pixels)
    drawn = found.draw(pixels)
    assert drawn.size == (pixels.shape[1], pixels.shape[0])
    assert (np.asarray(drawn) != pixels).any()
    turned = np.ascontiguousarray(pixels[:, :, ::-1])
    np.testing.assert_array_equal(np.asarray(found.draw(turned, bgr=True)), np.asarray(drawn))
    results = found.to_coco(image_id=7)
    assert [one["image_id"] for one in results] == [7] * len(found.people)
    assert all(len(one["keypoints"]) == 17 * 3 for one in results)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "NoneType is no photo"),
        (3.5, "float is no photo"),
        ({"a": 1}, "dict is no photo"),
        (np.zeros((4, 4, 3), np.float32), "float32 cannot be told"),
        (np.zeros((2, 8, 8, 3), np.uint8), "an array of 2x8x8x3 is no photo"),
        (np.zeros((8, 8, 2), np.uint8), "an array of 8x8x2 is no photo"),
        (np.zeros((0, 8, 3), np.uint8), "an array of 0x8x3 is no photo"),
        ("missing.png", "missing.png"),
        ([None], "NoneType is no photo"),
    ],
)
def test_what_is_no_photo_is_a_sentence(model: graphopt.Model, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model(given)


def test_a_closed_model_says_so() -> None:
    with graphopt.load(DEMO) as model:
        pass
    with pytest.raises(UsageError, match="was closed"):
        model(PHOTO)
    model.close()


def test_what_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        graphopt.load(tmp_path / "none.graphopt")
    with pytest.raises(InputError, match="there is no engine"):
        graphopt.load(DEMO, engine="tensorrt")


@pytest.mark.usefixtures("compile_once")
def test_threads_and_processes_give_the_sequential_answers(
    bundle: Callable[..., Path], pixels: NDArray[np.uint8]
) -> None:
    photos = [np.roll(pixels, 16 * shift, axis=1) for shift in range(8)]
    find = graphopt.Model.__call__  # which other processes can import
    with graphopt.load(bundle("cpu"), threads=1) as model:
        expected = [model(photo) for photo in photos]
        models = [model] * len(photos)
        with ThreadPoolExecutor(8) as pool:
            in_threads = list(pool.map(find, models, photos))
        start = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(4, mp_context=start) as workers:
            in_processes = list(workers.map(find, models, photos))
    for found in (in_threads, in_processes):
        for one, other in zip(found, expected, strict=True):
            same(one, other)


def test_the_example_says_who_is_there(
    example: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = tmp_path / "poses.png"
    example("poses_in_python").main(DEMO, PHOTO, drawn)
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("4 people: ")
    assert Image.open(drawn).size == Image.open(PHOTO).size


def test_the_readme_s_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    code = next(part for part in readme.split("```python\n")[1:] if "graphopt.load" in part)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    exec(code.partition("```")[0], {})
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert (tmp_path / "poses.png").exists()


def test_the_package_offers_what_it_says() -> None:
    for name in graphopt.__all__:
        assert getattr(graphopt, name) is not None
    assert set(graphopt.__all__) <= set(dir(graphopt))
    with pytest.raises(AttributeError, match="nothing"):
        graphopt.nothing  # noqa: B018
    light = "import sys, graphopt; print([m for m in sys.modules if m.startswith('onnx')])"
    done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", "importing it alone loads no library"
