"""What this machine can do at most, measured: the yardstick of `graphopt bench --per-layer`.

Two kernels, multiply-adds on registers alone and a copy between arrays that no cache holds, are
compiled as a network's kernels are (`codegen.jobs.roofline_kernels`) and timed by the same runner.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from graphopt.errors import GraphoptError
from graphopt.ir.records import Record
from graphopt.runtime import child_process as child
from graphopt.runtime.open import open_bundle

RUNS = 100
"""How often each kernel runs; other programs only ever slow it down, so the fastest counts."""


@dataclass(frozen=True)
class Peak(Record):
    """A machine's measured peak."""

    gflops: float
    """1e9 float32 operations a second, of which a multiply-add is two, in vectors as wide as the
    target's."""
    gbytes: float
    """1e9 bytes a second, read and written, of a copy in memory."""


def measure_peak(target: str, threads: int) -> Peak:
    """Measure the device that bundles for a target run on.

    Args:
        target: a file name of `graphopt/codegen/targets`.
        threads: as in `open_bundle`.

    Raises:
        Unsupported: this machine cannot run bundles for the target.
        GraphoptError: the kernels could not be compiled.
    """
    with TemporaryDirectory(prefix="graphopt-peak-") as folder:
        path = Path(folder) / "bundle"
        module = "graphopt.codegen.jobs.roofline_kernels"
        done = child.run(child.module(module, target, str(path)))
        if done.returncode:
            reason = (done.stderr.strip() or f"it died of signal {-done.returncode}").splitlines()
            raise GraphoptError(f"the peak test could not be compiled: {reason[-1]}")
        engine = open_bundle(path, threads=threads)
        runs = [engine.profile({}, 1) for _ in range(RUNS)]
    best = {t.kernel: t for t in sorted((t for run in runs for t in run), key=lambda t: -t.ms)}
    arithmetic, copy = (
        next(time for kernel, time in best.items() if kernel.startswith(name))
        for name in ("multiply_adds", "copy")
    )
    return Peak(gflops=2e-6 * arithmetic.macs / arithmetic.ms, gbytes=1e-6 * copy.bytes / copy.ms)
