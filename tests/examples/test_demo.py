"""The demo network finds people, and the mannequins that a script paints."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from PIL import Image

from graphopt.ir.onnx_io import load_model
from graphopt.optimizer.syntax import parse_pipeline
from graphopt.pose.detect import detect_pose_spec
from graphopt.pose.estimate import Estimator
from graphopt.pose.evaluate import evaluate
from graphopt.runtime.engine import OnnxRuntimeEngine

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEMO = EXAMPLES / "demo.onnx"


@pytest.fixture(scope="module")
def drawing(example: Callable[[str], ModuleType]) -> ModuleType:
    """examples/draw_demo.py as a module."""
    return example("draw_demo")


def _estimator() -> Estimator:
    return Estimator(OnnxRuntimeEngine(DEMO, threads=1), detect_pose_spec(DEMO))


def _distances(
    estimator: Estimator, picture: Image.Image, truth: Sequence[np.ndarray]
) -> tuple[int, np.ndarray]:
    """How many people were found, and [people, parts]: each joint's distance from the nearest
    person's in pixels, infinite where it was not found."""
    people = [person.keypoints for person in estimator(picture).people]
    rows = []
    for joints in truth:
        candidates = [
            np.where(k[:, 2] > 0, np.linalg.norm(k[:, :2] - joints, axis=1), np.inf) for k in people
        ]
        rows.append(min(candidates, key=np.median))
    return len(people), np.stack(rows)


def test_every_pass_has_something_to_do() -> None:
    assert DEMO.stat().st_size < 4_000_000
    graph = onnx.load(DEMO).graph
    ops = Counter(node.op_type for node in graph.node)
    convolutions = [
        {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        for node in graph.node
        if node.op_type == "Conv"
    ]
    assert ops["BatchNormalization"] >= 8
    assert ops["Sigmoid"] == ops["Mul"] >= 6
    assert ops["Add"] > 1
    assert any(conv["dilations"] == [2, 2] for conv in convolutions)
    assert any(conv["kernel_shape"] == [7, 7] for conv in convolutions)
    assert any(conv["group"] > 1 for conv in convolutions)
    assert [d.dim_param for d in graph.input[0].type.tensor_type.shape.dim[2:]] == [
        "height",
        "width",
    ]
    (truncate,) = parse_pipeline("truncate-refinement{stages=1}")
    assert [type(found).__name__ for found in truncate.match(load_model(DEMO))] == ["Cascade"]


def test_the_file_says_how_to_use_it() -> None:
    found = detect_pose_spec(DEMO)
    assert not found.guesses
    assert found.skeleton.name == "coco18"
    assert {p.key: p.value for p in onnx.load(DEMO).metadata_props}["license"] == "Apache-2.0"


def test_the_committed_picture_is_the_scripts(drawing: ModuleType) -> None:
    committed = np.asarray(Image.open(EXAMPLES / "demo.png").convert("RGB"), dtype=np.int16)
    drawn = np.asarray(drawing.make_picture(), dtype=np.int16)
    assert drawn.shape == committed.shape
    assert np.abs(drawn - committed).mean() < 1  # other versions of Pillow round differently


def test_everyone_on_the_picture_is_found(drawing: ModuleType) -> None:
    picture = Image.open(EXAMPLES / "demo.png").convert("RGB")
    zoom = picture.width / drawing.DEMO_SIZE[0]
    truth = [(figure.joints + 0.5) * zoom - 0.5 for figure in drawing.DEMO_FIGURES]
    count, distances = _distances(_estimator(), picture, truth)
    assert count == len(truth)
    assert np.mean(distances < 5 * zoom) > 0.9


@pytest.mark.assets
def test_people_in_photos_are_found(assets: Path) -> None:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed (extra [eval])")
    annotations = assets / "coco" / "person_keypoints_val_dev.json"
    scores = evaluate(_estimator(), assets / "coco" / "val_dev", annotations, limit=60)
    assert scores.AP > 0.15


def test_an_empty_picture_is_empty(drawing: ModuleType) -> None:
    wall = drawing.background(np.random.default_rng(5), drawing.DEMO_SIZE)
    assert _estimator()(wall).people == ()


def test_the_readmes_main_command(drawing: ModuleType, tmp_path: Path) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    line = next(line for line in readme.splitlines() if "graphopt optimize examples/" in line)
    steps = [step for step in line.split(" && ") if step.startswith("graphopt ")]
    assert [step.split()[1] for step in steps] == ["optimize", "compile", "run"]
    (tmp_path / "examples").symlink_to(EXAMPLES)
    for step in steps:
        command = [sys.executable, "-c", "from graphopt.cli import main; main()"]
        subprocess.run([*command, *shlex.split(step)[1:]], cwd=tmp_path, check=True)
    (photo,) = json.loads((tmp_path / "demo" / "poses.json").read_text())
    assert len(photo["people"]) == len(drawing.DEMO_FIGURES)
    assert Image.open(tmp_path / "demo" / "poses.png").size == (photo["width"], photo["height"])
