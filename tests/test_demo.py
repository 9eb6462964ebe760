"""The demo network finds the mannequins that its script paints: these, and ones it never saw."""

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

from graphopt.engine import OnnxRuntimeEngine
from graphopt.pose.estimate import Estimator
from graphopt.pose.spec import detect_pose_spec

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
DEMO = EXAMPLES / "demo.onnx"


@pytest.fixture(scope="module")
def script(example: Callable[[str], ModuleType]) -> ModuleType:
    """examples/make_demo.py as a module."""
    return example("make_demo")


@pytest.fixture(scope="module")
def remade(script: ModuleType) -> onnx.ModelProto:
    """A network made here and now, from fewer scenes than the committed one."""
    model: onnx.ModelProto = script.make_network(scenes=16)
    return model


def _estimator(model: Path | onnx.ModelProto) -> Estimator:
    source = model if isinstance(model, Path) else model.SerializeToString()
    return Estimator(OnnxRuntimeEngine(source, threads=1), detect_pose_spec(model))


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
    assert DEMO.stat().st_size < 1_000_000
    graph = onnx.load(DEMO).graph
    ops = Counter(node.op_type for node in graph.node)
    convolutions = [
        {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        for node in graph.node
        if node.op_type == "Conv"
    ]
    assert ops["BatchNormalization"] >= 8
    assert ops["Sigmoid"] == ops["Mul"] >= 6
    assert ops["Add"] == 1
    assert any(conv["dilations"] == [2, 2] for conv in convolutions)
    assert any(conv["kernel_shape"] == [7, 7] for conv in convolutions)
    assert any(conv["group"] > 1 for conv in convolutions)
    assert [d.dim_param for d in graph.input[0].type.tensor_type.shape.dim[2:]] == [
        "height",
        "width",
    ]


def test_the_file_says_how_to_use_it(script: ModuleType) -> None:
    found = detect_pose_spec(DEMO)
    assert not found.guesses
    assert found.preprocess == script.SPEC.preprocess
    assert found.skeleton.name == "coco18"


def test_the_committed_picture_is_the_scripts(script: ModuleType) -> None:
    committed = np.asarray(Image.open(EXAMPLES / "demo.png").convert("RGB"), dtype=np.int16)
    drawn = np.asarray(script.make_picture(), dtype=np.int16)
    assert drawn.shape == committed.shape
    assert np.abs(drawn - committed).mean() < 1  # other versions of Pillow round differently


def test_the_script_makes_the_committed_network(remade: onnx.ModelProto) -> None:
    committed = onnx.load(DEMO)

    def form(model: onnx.ModelProto) -> list[object]:
        nodes = [(n.op_type, n.name, list(n.input), list(n.output)) for n in model.graph.node]
        return [nodes, [(c.name, list(c.dims)) for c in model.graph.initializer]]

    assert form(remade) == form(committed)
    assert [p.key for p in remade.metadata_props] == [p.key for p in committed.metadata_props]


@pytest.mark.parametrize(("which", "share"), [("committed", 1.0), ("remade", 0.95)])
def test_everyone_on_the_picture_is_found(
    which: str, share: float, script: ModuleType, remade: onnx.ModelProto
) -> None:
    picture = Image.open(EXAMPLES / "demo.png").convert("RGB")
    zoom = picture.width / script.DEMO_SIZE[0]
    truth = [(figure.joints + 0.5) * zoom - 0.5 for figure in script.DEMO_FIGURES]
    count, distances = _distances(
        _estimator(DEMO if which == "committed" else remade), picture, truth
    )
    assert count == len(truth)
    assert np.mean(distances < 3 * zoom) >= share


def test_mannequins_it_never_saw_are_found(script: ModuleType) -> None:
    rng = np.random.default_rng(99)  # the network was fitted on another seed's
    estimator = _estimator(DEMO)
    everything = []
    for number in range(8):
        scene = script.random_scene(rng, script.DEMO_SIZE, 2 + number % 2)
        picture = Image.fromarray(scene.pixels.astype(np.uint8))
        truth = [figure.joints for figure in scene.figures]
        count, distances = _distances(estimator, picture, truth)
        assert count == len(truth)
        everything.append(distances.ravel())
    errors = np.concatenate(everything)
    assert np.median(errors) < 1
    assert np.mean(errors < 5) > 0.97  # a hand may hide a joint


def test_an_empty_picture_is_empty(script: ModuleType) -> None:
    wall = script.background(np.random.default_rng(5), script.DEMO_SIZE)
    assert _estimator(DEMO)(wall).people == ()


def test_the_readmes_main_command(script: ModuleType, tmp_path: Path) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    line = next(line for line in readme.splitlines() if "graphopt optimize examples/" in line)
    steps = [step for step in line.split(" && ") if step.startswith("graphopt ")]
    assert [step.split()[1] for step in steps] == ["optimize", "compile", "run"]
    (tmp_path / "examples").symlink_to(EXAMPLES)
    for step in steps:
        command = [sys.executable, "-c", "from graphopt.cli import main; main()"]
        subprocess.run([*command, *shlex.split(step)[1:]], cwd=tmp_path, check=True)
    (photo,) = json.loads((tmp_path / "demo" / "poses.json").read_text())
    assert len(photo["people"]) == len(script.DEMO_FIGURES)
    assert Image.open(tmp_path / "demo" / "poses.png").size == (photo["width"], photo["height"])
