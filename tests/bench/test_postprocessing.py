"""Ways from maps to people, on made-up people."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from graphopt.bench.postprocessing import Scene, compare_post_processing
from graphopt.cli import app
from graphopt.pose.baseline_decoders import by_centres, by_tags
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.skeleton import load_skeleton

COCO18 = load_skeleton("coco18")


@pytest.mark.parametrize("count", [1, 10, 30])
def test_other_ways_find_everybody(count: int) -> None:
    scene, options = Scene.of(COCO18, count), DecodeOptions()
    for found in (
        by_tags(scene.heat, scene.tags, options),
        by_centres(scene.heat, scene.centre, scene.offsets, options),
    ):
        number, error = scene.judge(list(found))
        assert number == count
        assert error < 0.3


def test_nobody() -> None:
    scene = Scene.of(COCO18, 0)
    none, options = np.zeros_like(scene.heat), DecodeOptions()
    assert not len(by_tags(none, scene.tags, options))
    assert not len(by_centres(none, np.zeros_like(scene.centre), scene.offsets, options))


def test_the_judge_counts_people() -> None:
    scene = Scene.of(COCO18, 3)
    right = [np.nan_to_num(np.column_stack([p, p[:, 0] >= 0])) for p in scene.people]
    assert scene.judge(right) == (3, 0.0)
    number, error = scene.judge([right[0] + (0.5, 0, 0), right[1] + (3, 0, 0)])
    assert number == 1
    assert error == pytest.approx(0.5)
    assert scene.judge([])[0] == 0


def test_the_comparison() -> None:
    report = compare_post_processing([2], rounds=2)
    own, numpy_way = report.ways["PAF, graphopt's kernels"], report.ways["PAF, NumPy"]
    assert own.found == numpy_way.found == (2,)
    assert own.error == pytest.approx(numpy_way.error, abs=1e-3)
    assert all(0 < way.ms[0] < 1e4 for way in report.ways.values())
    assert len(report.ways) >= 4


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "post.json"
    command = ["bench", "--post-processing", "--num-runs", "1", "--result-json", str(file)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "found of 30" in done.output
    assert json.loads(file.read_text())["people"][-1] == 30
    wrong = (
        ["bench"],
        ["bench", "net.onnx", "--post-processing"],
        ["bench", "--post-processing", "--threads", "1"],
        ["bench", "--post-processing", "--rpc", "phone:9090"],
        ["bench", "net.so", "--rpc", "phone:9090", "--photo", "photo.jpg"],
    )
    for arguments in wrong:
        assert CliRunner().invoke(app, arguments).exit_code == 2
