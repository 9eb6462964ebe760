"""The kernels that a machine's peak is measured with do the work that is counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphopt.codegen.peak import COPIED, SUMS, make_bundle
from graphopt.codegen.targets import load_target
from graphopt.errors import GraphoptError
from graphopt.peak import measure_peak
from graphopt.runtime import open_bundle

TARGETS = ["cpu", pytest.param("opencl", marks=pytest.mark.opencl)]


@pytest.mark.parametrize("name", TARGETS)
def test_multiply_adds_are_done_and_bytes_are_counted(name: str, tmp_path: Path) -> None:
    target = load_target(name)
    make_bundle(target, tmp_path / "bundle")
    engine = open_bundle(tmp_path / "bundle", threads=1)
    sums = engine.run({})["sums"]
    arithmetic, copy = engine.profile({}, 1)
    # x <- 0.999 x + 0.001 is 1 + 0.999^n (x - 1) after n steps.
    steps = arithmetic.macs // (sums.shape[0] * SUMS * target.lanes)
    start = np.linspace(0, 1, SUMS + 2)[:-2]
    expected = np.sum(1 + 0.999**steps * (start - 1))
    np.testing.assert_allclose(sums, expected, rtol=1e-3)
    assert copy.bytes == 2 * COPIED


@pytest.mark.parametrize("name", TARGETS)
def test_a_peak_is_a_number_that_a_machine_can_have(name: str) -> None:
    peak = measure_peak(name, threads=1)
    assert 0.1 < peak.gflops < 1e5
    assert 0.1 < peak.gbytes < 1e4


def test_a_target_that_nobody_knows_is_a_sentence() -> None:
    with pytest.raises(GraphoptError, match="no target is called 'abacus'"):
        measure_peak("abacus", threads=1)


def test_running_a_bundle_needs_no_pytorch(tmp_path: Path) -> None:
    make_bundle(load_target("cpu"), tmp_path / "bundle")
    program = (
        "import sys, pathlib, graphopt.runtime as r\n"
        "r.open_bundle(pathlib.Path(sys.argv[1])).run({})\n"
        "assert 'tvm_ffi' in sys.modules and 'torch' not in sys.modules\n"
        "import importlib.util as u\n"
        "if u.find_spec('torch'):\n"  # those who want it get it
        "    import torch; torch.ones(3, requires_grad=True).sum().backward()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "bundle")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
