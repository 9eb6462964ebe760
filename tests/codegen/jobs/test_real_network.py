"""Lightweight OpenPose on real photos: bundles find the people that onnxruntime finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from graphopt.cli import app

SHAPE = "1,3,256,456"


def command(*args: object) -> None:
    result = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.assets
@pytest.mark.parametrize("target", ["cpu", pytest.param("opencl", marks=pytest.mark.opencl)])
def test_the_same_people_as_onnxruntime(
    target: str, lwop: Path, photos: list[Path], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    command("compile", lwop, "-o", bundle, "--target", target, "--input-shape", SHAPE)
    found = {}
    for engine in ("graphopt", "onnxruntime"):
        poses = tmp_path / f"{engine}.json"
        command("run", bundle, *photos, "--engine", engine, "--json", poses)
        found[engine] = json.loads(poses.read_text())
    assert sum(len(photo["people"]) for photo in found["graphopt"]) >= 8
    for ours, theirs in zip(found["graphopt"], found["onnxruntime"], strict=True):
        assert len(ours["people"]) == len(theirs["people"]), ours["image"]
        for a, b in zip(ours["people"], theirs["people"], strict=True):
            shift = np.subtract(a["keypoints"], b["keypoints"])[:, :2]
            assert np.abs(shift).max() < 0.1, ours["image"]
