"""Bundles opened to be run here: `open_bundle`."""

from __future__ import annotations

from pathlib import Path

from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.cpu import CpuRunner, for_this_cpu
from graphopt.runtime.opencl import OpenClRunner
from graphopt.runtime.runner import BundleRunner


def open_bundle(path: Path, *, threads: int = 0, level: str = "") -> BundleRunner:
    """A bundle, ready to run.

    Args:
        path: the bundle's folder.
        threads: CPU threads; 0 takes every core that the process may use. PoCL, whose threads serve
            the whole process, takes the number of the OpenCL bundle that is opened first.
        level: of a bundle for several kinds of CPUs, which kernels; the best for this CPU if left
            out, from the level on that the variable GRAPHOPT_CPU_LEVEL names.

    Raises:
        InputError: no bundle, or a damaged one.
        Unsupported: this machine cannot run it; the message says what it lacks.
    """
    bundle = read_bundle(path)
    if bundle.manifest.target.kind == "cpu":
        return CpuRunner(for_this_cpu(bundle, level), threads)
    return OpenClRunner(bundle, threads)
