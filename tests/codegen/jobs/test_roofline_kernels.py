"""The kernels that a machine's peak is measured with do the work that is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.bench.roofline import measure_peak
from graphopt.codegen.jobs.roofline_kernels import COPIED, SUMS, make_bundle
from graphopt.codegen.targets import load_target
from graphopt.errors import GraphoptError
from graphopt.runtime.open import open_bundle

TARGETS = ["cpu", pytest.param("opencl", marks=pytest.mark.opencl)]


@pytest.mark.parametrize("name", TARGETS)
def test_multiply_adds_are_done_and_bytes_are_counted(name: str, tmp_path: Path) -> None:
    target = load_target(name)
    make_bundle(target, tmp_path / "bundle")
    engine = open_bundle(tmp_path / "bundle", threads=1)
    sums: np.ndarray = engine.run({})["sums"]
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
