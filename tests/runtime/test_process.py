"""A bundle leaves the process that runs it as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.codegen.jobs.roofline_kernels import make_bundle
from graphopt.codegen.targets import load_target


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    make_bundle(load_target("cpu"), tmp_path / "bundle")
    return tmp_path / "bundle"


def passes(program: str, bundle: Path) -> None:
    """Run a program, with the bundle as its argument, in a process that has opened none yet."""
    done = subprocess.run([sys.executable, "-c", program, bundle], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_running_needs_no_pytorch(bundle: Path) -> None:
    program = (
        "import sys, pathlib, graphopt.runtime.open as r\n"
        "r.open_bundle(pathlib.Path(sys.argv[1])).run({})\n"
        "assert 'tvm_ffi' in sys.modules and 'torch' not in sys.modules\n"
        "import importlib.util as u\n"
        "if u.find_spec('torch'):\n"  # those who want it get it
        "    import torch; torch.ones(3, requires_grad=True).sum().backward()\n"
    )
    passes(program, bundle)


@pytest.mark.skipif(os.cpu_count() == 1, reason="there is one core only")
def test_it_keeps_its_cores(bundle: Path) -> None:
    program = (
        "import os, sys, pathlib, graphopt.runtime.open as r\n"
        "os.sched_setaffinity(0, range(os.cpu_count()))\n"
        "cores = os.sched_getaffinity(0)\n"
        "r.open_bundle(pathlib.Path(sys.argv[1])).run({})\n"
        "assert os.sched_getaffinity(0) == cores\n"
    )
    passes(program, bundle)
