"""The example pass, loaded from its file and installed as a plug-in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_networks import MakeGraph, MakeProto

from graphopt.optimizer.optimize import optimize
from graphopt.optimizer.options import OptimizeOptions
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.registry import find_passes

MAIN = "from graphopt.cli import main; main()"
EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_pass.py"


@pytest.fixture
def model(proto: MakeProto, tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    body = "a = Relu(x) b = Clip(a, zero, six) c = Relu(b) d = Clip(c, below, six) y = Neg(d)"
    constants = {"zero": np.float32(0), "below": np.float32(-1), "six": np.float32(6)}
    onnx.save(proto("float[1,3,8,8] x", "float[1,3,8,8] y", body, **constants), path)
    return path


def test_loaded_from_its_file(model: Path) -> None:
    report = optimize(model, options=OptimizeOptions(passes="drop-relu", load=(EXAMPLE,)))
    (entry,) = report.passes
    assert len(entry.changes) == 1
    assert entry.skips[0].reason == "its lower bound is negative, or not constant"
    assert entry.max_abs_diff == 0
    made = onnx.load(model.with_name("m.opt.onnx"))
    assert [n.op_type for n in made.graph.node] == ["Clip", "Relu", "Clip", "Neg"]


def test_what_others_read_stays(network: MakeGraph) -> None:
    graph = network(
        "float[4] x",
        "float[4] y, float[4] a",
        "a = Relu(x) y = Clip(a, zero, six)",
        zero=np.float32(0),
        six=np.float32(6),
    )
    result = run_pipeline(graph, [find_passes([EXAMPLE])["drop-relu"]()])
    assert [n.op for n in result.graph.nodes] == ["Relu", "Clip"]


def test_it_is_about_twenty_lines() -> None:
    body = EXAMPLE.read_text().split("class DropRelu")[1].splitlines()
    assert sum(bool(line.strip()) for line in body) <= 22


def test_installed_as_a_plug_in(tmp_path: Path) -> None:
    """A distribution is a module and its metadata on the path."""
    (tmp_path / "their_passes.py").write_text(EXAMPLE.read_text())
    info = tmp_path / "their_passes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-passes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[graphopt.passes]\ndrop-relu = their_passes:DropRelu\n")
    command = [sys.executable, "-c", MAIN, "passes", "show", "drop-relu"]
    args: dict[str, Any] = {"capture_output": True, "text": True, "check": False}
    shown = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, **args)
    assert shown.returncode == 0, shown.stderr
    assert "Clip(Relu(x), low, high) -> Clip(x, low, high)" in shown.stdout
    # Without it there is no such pass; and one that is broken is named.
    assert subprocess.run(command, env={}, **args).returncode == 2
    (tmp_path / "their_passes.py").write_text("import nothing_of_that_name")
    broken = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, **args)
    assert broken.returncode == 1
    assert "plug-in their-passes is broken: it cannot be imported" in broken.stderr
    assert "their_passes.py:1: ModuleNotFoundError" in broken.stderr
    # Others work; it is named once, and listed with the reason.
    listed = subprocess.run(
        [sys.executable, "-c", MAIN, "passes", "list", "--json"],
        env={"PYTHONPATH": str(tmp_path)},
        **args,
    )
    assert listed.returncode == 0
    assert listed.stderr.count("their-passes is broken") == 1
    found = json.loads(listed.stdout)
    assert "canonicalize" in {entry["name"] for entry in found["passes"]}
    (problem,) = found["broken"]
    assert (problem["names"], problem["origin"]) == (["drop-relu"], "plug-in their-passes")
    command[-2:] = ["list"]
    listed = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, **args)
    assert "drop-relu" in listed.stdout
    assert "their_passes.py:1" in "".join(listed.stdout.split())
