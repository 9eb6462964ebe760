"""Processes that graphopt starts import nothing from the folder that the user is in."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.bench.competitors import GuestEngine, Job
from graphopt.bench.memory_usage import peak_memory
from graphopt.bench.roofline import measure_peak
from graphopt.compiler.compile import compile_model
from graphopt.devices.doctor import examine
from graphopt.devices.parts import parts
from graphopt.runtime import child_process as child

STRANGERS = ("random", "numpy", "onnx", "tvm", "json", "graphopt", "runpy", "ziglang", "pyopencl")


@pytest.fixture
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with modules and packages that leave a file when they are imported."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    trap = f"open({str(tmp_path / 'imported')!r}, 'a').write(__name__ + ' ')\n"
    for name in STRANGERS:
        (folder / f"{name}.py").write_text(trap)
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(trap)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def network(proto: Callable[..., onnx.ModelProto], tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    weight = np.ones((8, 3, 3, 3), np.float32)
    onnx.save(proto("float[1,3,9,11] x", "float[1,8,7,9] y", "y = Conv(x, w)", w=weight), path)
    return path


def graphopt(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    script = Path(sysconfig.get_path("scripts"), "graphopt")
    return subprocess.run(
        [script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | variables,
        check=False,
    )


def imported(folder: Path) -> str:
    left = folder.parent / "imported"
    return left.read_text() if left.exists() else ""


def test_compile_imports_no_stranger(strangers: Path, network: Path, tmp_path: Path) -> None:
    done = graphopt("compile", network, "-o", tmp_path / "bundle", "--target", "cpu")
    assert done.returncode == 0, done.stderr
    assert not imported(strangers)


@pytest.mark.parametrize("path", ["", ".", f"{os.pathsep}/nowhere", f"/nowhere{os.pathsep}."])
def test_no_child_imports_a_stranger(
    strangers: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", path)
    compile_model(network, tmp_path / "bundle")
    measure_peak("cpu", 1)
    job = Job(network, {"x": (1, 3, 9, 11)}, {"y": (1, 8, 7, 9)}, 1, tmp_path)
    feeds = {"x": np.zeros((1, 3, 9, 11), np.float32)}
    assert peak_memory("graphopt", job, tmp_path / "bundle", feeds) > 1e7
    assert not [f.part.name for f in examine(parts()) if f.found.endswith("/downloads")]
    assert not imported(strangers)


def test_a_child_runs_modules_that_are_installed_and_named_by_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("import sys; print(__name__, sys.argv[1:], sys.path[-1])")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), "", "relative"]))
    assert child.environment()["PYTHONPATH"] == str(tmp_path)
    command = child.module("mine", "a b", "-c")
    said = subprocess.run(command, env=child.environment(), capture_output=True, text=True)
    assert said.stdout == f"__main__ ['a b', '-c'] {Path(child.__file__).parents[2]}\n"
    program = child.program("print(sys.argv, '' in sys.path)", "x")
    said = subprocess.run(program, env=child.environment(), capture_output=True, text=True)
    assert said.stdout == "['-c', 'x'] False\n"


def test_what_a_child_prints_is_no_answer(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('good morning', flush=True)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    compile_model(network, tmp_path / "bundle")
    job = Job(network, {"x": (1, 3, 9, 11)}, {"y": (1, 8, 7, 9)}, 1, tmp_path)
    feeds = {"x": np.zeros((1, 3, 9, 11), np.float32)}
    assert peak_memory("onnxruntime", job, tmp_path / "bundle", feeds) > 1e7


GUEST = """
import importlib.util, sys
print("good morning", flush=True)
spec = importlib.util.spec_from_file_location("guest", sys.argv.pop(2))
guest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(guest)
def chatty(model, inputs, outputs, threads, best):
    def run(feeds):
        print("running", flush=True)
        return [feeds[0] + 1]
    return run
guest.ENGINES = {"chatty": chatty}
guest.main(*sys.argv[2:])
"""


def test_a_guest_may_print(network: Path, tmp_path: Path) -> None:
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -I {tmp_path}/go.py "$@"\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "go.py").write_text(GUEST)
    job = Job(network, {"x": (2, 3)}, {"y": (2, 3)}, 1, tmp_path)
    engine = GuestEngine("chatty", job, str(tmp_path / "python"))
    for value in (1.0, 2.0):
        (found,) = engine.run({"x": np.full((2, 3), value, np.float32)}).values()
        assert (found == value + 1).all()
    assert "running" in (tmp_path / "guest.log").read_text()
