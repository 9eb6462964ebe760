"""The training script: what it teaches, and that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from known import values_of
from PIL import Image

from graphopt.ir.onnx_io import load_model, save_model
from graphopt.pose.detect import detect_pose_spec
from graphopt.pose.skeleton import COCO_PARTS
from graphopt.zoo.catalogue import build

pytest.importorskip("torch", reason="PyTorch is not installed (extra [distill])")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "train.py"


@pytest.fixture(scope="module")
def script(example: Callable[[str], ModuleType]) -> ModuleType:
    """examples/train.py as a module."""
    return example("train")


def annotated(**places: tuple[float, float]) -> dict[str, Any]:
    """Somebody as COCO writes it, with these key points."""
    points = [[*places[name], 2] if name in places else [0, 0, 0] for name in COCO_PARTS]
    box = [20, 0, 40, 64]
    flat = [number for point in points for number in point]
    found = {"image_id": 7, "category_id": 1, "iscrowd": 0, "bbox": box, "id": 1}
    return {**found, "keypoints": flat, "num_keypoints": len(places)}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "7.png"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_lessons(script: ModuleType, photo: Path) -> None:
    """Bumps are where key points are, in both pictures; the unmarked are not asked for."""
    model = build("lightweight-openpose", (1, 3, 64, 64), options={"refinements": 0})
    spec = detect_pose_spec(model)
    index = spec.skeleton.index
    seen = annotated(left_shoulder=(36, 20), right_shoulder=(20, 20))
    hidden = {**annotated(), "bbox": [0, 48, 16, 16]}
    source = script.Photo(photo, [seen, hidden])
    straight = script.example(source, spec, (64, 64), mirrored=False)
    turned = script.example(source, spec, (64, 64), mirrored=True)
    for lesson, left, right in ((straight, 4, 2), (turned, 5, 3)):
        columns = {"left_shoulder": left, "right_shoulder": right}
        for name, column in columns.items():
            peak = np.unravel_index(lesson.heat[index[name]].argmax(), (8, 8))
            assert peak == (2, column)
        assert lesson.heat[index["neck"]].max() > 0.5
        assert (lesson.heat[: len(index)].max(axis=0) + lesson.heat[-1]).max() <= 1.001
    assert straight.asked[0, 6:, :2].max() == 0
    assert straight.asked.sum() == 64 - 4
    np.testing.assert_array_equal(turned.asked, straight.asked[:, :, ::-1])
    np.testing.assert_array_equal(turned.image, straight.image[:, :, ::-1])


def test_script(photo: Path, tmp_path: Path) -> None:
    start, trained, truth = (tmp_path / name for name in ("start.onnx", "end.onnx", "truth.json"))
    save_model(build("lightweight-openpose", (1, 3, 64, 64)), start)
    person = annotated(left_shoulder=(44, 20), right_shoulder=(20, 20))
    images = [{"id": 7, "file_name": photo.name}]
    truth.write_text(json.dumps({"images": images, "annotations": [person], "categories": []}))
    words: list[str | Path] = [
        "--images",
        photo.parent,
        "--annotations",
        truth,
        "-o",
        trained,
        "--rate",
        "1e-3",
    ]
    done = subprocess.run(
        [sys.executable, SCRIPT, start, *words, "--steps", "6", "--batch", "2", "--report", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    losses = [float(line.split()[4]) for line in done.stdout.splitlines() if line[:4] == "step"]
    assert losses[-1] < losses[0]
    before, after = load_model(start), load_model(trained)
    assert [t.name for t in after.outputs] == ["heat", "paf"]
    for name in ("backbone/conv.weight", "backbone/batchnormalization.mean"):
        assert not np.array_equal(
            values_of(before.tensors()[name]), values_of(after.tensors()[name])
        )
    assert detect_pose_spec(trained).skeleton.name == "coco18"
