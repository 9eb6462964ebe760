"""Bundles opened to be run here: `open_bundle`."""

from __future__ import annotations

from pathlib import Path

from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.cpu import CpuRunner
from graphopt.runtime.opencl import OpenClRunner
from graphopt.runtime.runner import BundleRunner


def open_bundle(path: Path, *, threads: int = 0) -> BundleRunner:
    """A bundle, ready to run.

    Args:
        path: the bundle's folder.
        threads: CPU threads; 0 takes every core that the process may use. PoCL, whose threads serve
            the whole process, takes the number of the OpenCL bundle that is opened first.

    Raises:
        InputError: no bundle, or a damaged one.
        Unsupported: this machine cannot run it; the message says what it lacks.
    """
    bundle = read_bundle(path)
    runner = CpuRunner if bundle.manifest.target.kind == "cpu" else OpenClRunner
    return runner(bundle, threads)
