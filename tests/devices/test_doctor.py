"""`graphopt doctor`, on this machine and on broken ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from graphopt.bench.competitors import COMPETITORS
from graphopt.devices.doctor import Finding, broken, examine
from graphopt.devices.parts import parts


def doctor(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from graphopt.cli import main; main()", "doctor", *arguments]
    environment = os.environ | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def look(name: str) -> Finding:
    (finding,) = examine([part for part in parts() if part.name == name])
    return finding


def test_this_machine_has_what_the_tests_ran_with() -> None:
    done = doctor()
    assert done.returncode == 0, done.stderr
    version = metadata.version("onnxruntime")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("onnxruntime ")]
    assert line.split()[1:3] == ["ok", version]


def test_a_half_broken_machine_is_described(tmp_path: Path) -> None:
    (tmp_path / "onnx.py").write_text("raise RuntimeError('out of order')")
    (tmp_path / "pyopencl.py").write_text("import os; os.abort()")
    (tmp_path / "python").write_text("#!/bin/sh\necho 'no MNN, alas' >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    programs = {"PATH": str(tmp_path), "GRAPHOPT_MNN": str(tmp_path / "python")}
    done = doctor("--json", PYTHONPATH=paths, **programs)
    assert done.returncode == 3
    assert "every command needs what is missing here: graphopt\n" in done.stderr
    assert "Traceback" not in done.stderr
    found: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in json.loads(done.stdout)}
    for name, complaint in (
        ("graphopt", "RuntimeError: out of order"),
        ("OpenCL device", "it crashes (signal 6)"),
        ("MNN", "no MNN, alas"),
        ("CMake", "there is no cmake on PATH"),
        ("phone", "adb is not installed, and phones are reached through it"),
    ):
        assert (found[name]["ok"], found[name]["found"]) == (False, complaint)
        assert found[name]["install"]
        assert found[name]["needed_for"]
    assert found["numpy"]["ok"]


def test_versions_that_will_not_do_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look("apache-tvm-ffi").ok
    monkeypatch.setattr(metadata, "version", lambda _: "0.1.15")
    finding = look("apache-tvm-ffi")
    assert not finding.ok
    assert finding.found.startswith("apache-tvm-ffi is 0.1.15, but graphopt needs ")
    assert "<0.1.15" in finding.part.install
    assert broken([look("numpy")]) == ["numpy"]


def test_competitors_are_installed_by_one_command() -> None:
    engines = {part.name.lower(): part.install for part in parts()}
    for name, competitor in COMPETITORS.items():
        assert name == "onnxruntime" or engines[name] == competitor.install


FINE = """
from dataclasses import dataclass
from graphopt.optimizer.pass_contract import Numerics, Pass
@dataclass(frozen=True)
class Fine(Pass):
    \"\"\"Do nothing.\"\"\"
    name = "do-nothing"
    numerics = Numerics.EXACT
    def match(self, graph):
        return ()
    def rewrite(self, graph, site):
        return None
"""
BROKEN = {
    "missing": "import no_such_module",
    "empty": "x = 1",
    "crashing": "import os; os.abort()",
}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("missing", "no_such_module"), ("empty", "defines no pass"), ("crashing", "it crashes")],
)
def test_plug_ins_are_listed(tmp_path: Path, name: str, complaint: str) -> None:
    for plug_in, text in {"fine": FINE, name: BROKEN[name]}.items():
        info = tmp_path / f"{plug_in}_plug-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {plug_in}-plug\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[graphopt.passes]\n{plug_in} = {plug_in}_passes\n")
        (tmp_path / f"{plug_in}_passes.py").write_text(text)
    done = doctor("--json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = {entry["name"]: entry for entry in json.loads(done.stdout)}
    fine, broken_one = found["plug-in fine"], found[f"plug-in {name}"]
    assert (fine["ok"], fine["found"]) == (True, "do-nothing (fine-plug 1.5)")
    assert not broken_one["ok"]
    assert complaint in broken_one["found"]
    assert f"pip uninstall {name}-plug" in broken_one["install"]
