"""Which precision a network is compiled in where that is left open.

Where nothing is said, bfloat16 on a CPU for which that is known to be faster by far, float32 on all
others; with `compile --precision auto` what is predicted for a device, or measured here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.analysis.latency.device import Device, Precision, load_device
from graphopt.analysis.latency.predict import network_ms
from graphopt.codegen.targets import check_bfloat16, check_half_arithmetic
from graphopt.codegen.targets.cpu import bfloat16_unit
from graphopt.compiler.comparison import opened
from graphopt.compiler.options import CompileOptions
from graphopt.errors import CheckFailed, GraphoptError, Unsupported
from graphopt.runtime.bundle import copy_bundle, read_bundle
from graphopt.runtime.steps import is_quantised


class Checked(Protocol):
    """What came of compiling, as far as choices depend on it."""

    @property
    def difference(self) -> float | str:
        """To onnxruntime's outputs; or why it was not measured."""
        ...


Made = TypeVar("Made", bound=Checked)
Compiling: TypeAlias = Callable[[Path, CompileOptions, Callable[[str], None]], Made]
"""Compiles a network, which is prepared, into a bundle; tells what it does."""

ROUNDS = 9
"""How often each bundle runs, in turns; the median counts."""

KNOWN_CPUS: Mapping[str, str] = {"amx_bf16": "xeon-amx-1t"}
"""Instructions for bfloat16 that pay on whichever CPU has them, and a profile of one that has."""
SURE = 1.5
"""How many times as fast bfloat16 is predicted to be where it is taken unasked."""


def is_left_open(options: CompileOptions, graph: gs.Graph) -> bool:
    """Whether nothing says what a network is to be computed in, or which CPUs are to run it."""
    said = (
        *(options.precision, options.device, options.bf16, options.fp16, options.fp16_arithmetic),
        *(options.host, options.cpu_features, options.cpu_levels),
        options.tuning not in ("auto", "off"),  # kernels of float32
    )
    return options.target == "cpu" and not any(said) and not is_quantised(graph)


def usual_precision(graph: gs.Graph) -> Precision:
    """The precision that a float network is compiled in here where nothing is said."""
    return "bfloat16" if _gain(graph) >= SURE else "float32"


def compile_usual(
    compiling: Compiling[Made],
    bundle: Path,
    options: CompileOptions,
    graph: gs.Graph,
    progress: Callable[[str], None],
) -> tuple[Made, tuple[str, ...]]:
    """Compile in bfloat16 where that surely pays on this CPU and passes its checks, else float32.

    Arguments, result and errors are those of `compile_fastest`; the graph is what is compiled.
    """
    times = _gain(graph)
    if times < SURE:
        return compiling(bundle, options, progress), ()
    try:
        low = replace(options, precision="bfloat16", on_fail="stop")
        done = compiling(bundle, low, progress)
    except (CheckFailed, Unsupported) as error:
        reason = error.message
    else:
        if isinstance(done.difference, float):
            return done, (
                f"precision bfloat16: this CPU has amx_bf16, and {times:.1f} times the speed of "
                "float32 is predicted (--precision float32 for that)",
            )
        reason = f"it is not compared with onnxruntime: {done.difference}"
    plain = replace(options, precision="float32", calib=None)
    return compiling(bundle, plain, progress), (f"precision float32; no bfloat16: {reason}",)


def _gain(graph: gs.Graph) -> float:
    """How many times as fast as float32 bfloat16 is predicted to be here; 0: nothing is known."""
    try:
        unit = bfloat16_unit().name
    except Unsupported:
        return 0.0
    if unit not in KNOWN_CPUS:
        return 0.0
    profile = load_device(KNOWN_CPUS[unit])
    low = profile.computing_in("bfloat16")
    return network_ms(graph, profile) / network_ms(graph, low) if low else 0.0


def is_measured(options: CompileOptions, graph: gs.Graph) -> bool:
    """Whether a network's precision is to be found by running it here."""
    elsewhere = options.device is not None or options.host
    return options.precision == "auto" and not elsewhere and not is_quantised(graph)


def candidates(options: CompileOptions) -> list[Precision]:
    """What a float network can be compiled in for a target, float32 first."""
    found: list[Precision] = ["float32"]
    if options.target != "cpu":
        return [*found, "float16"]
    checks: dict[Precision, Callable[[str, str, str], None]] = {
        "bfloat16": check_bfloat16,
        "float16": check_half_arithmetic,
    }
    for precision, check in checks.items():
        with suppress(GraphoptError):
            check(options.target, options.host, options.cpu_features)
            found.append(precision)
    return found


def predicted_fastest(graph: gs.Graph, options: CompileOptions) -> tuple[Precision, str]:
    """The precision that the profile `options.device` predicts the least time for, and a remark."""
    assert options.device is not None
    device = load_device(options.device)
    times: dict[Precision, float] = {}
    unknown: list[str] = []
    for precision in candidates(options):
        profile: Device | None = device.computing_in(precision)
        if profile is None:
            unknown.append(precision)
        else:
            times[precision] = network_ms(graph, profile)
    best = min(times, key=times.__getitem__)
    told = ", ".join(f"{ms:.1f} ms in {name}" for name, ms in times.items())
    gaps = f"; nothing is known of {' and '.join(unknown)}" if unknown else ""
    return best, f"{best}, as predicted for {device.name}: {told}{gaps}"


def compile_fastest(
    compiling: Compiling[Made],
    bundle: Path,
    options: CompileOptions,
    progress: Callable[[str], None],
) -> tuple[Made, tuple[str, ...]]:
    """Compile in each precision that passes its checks, and keep the bundle that runs fastest here.

    Args:
        compiling: compiles the network, which is prepared, into a bundle.
        bundle, options, progress: as in `compile.compile_model`.

    Returns:
        What it gave for that bundle, and remarks on the choice.

    Raises:
        GraphoptError: as it; float32 cannot be compiled, or not run here.
    """
    failed: list[str] = []
    with TemporaryDirectory(prefix="graphopt-") as folder:
        made: dict[Precision, Made] = {}
        for precision in candidates(options):
            shown = None if precision == "float32" else options.calib
            chosen = replace(options, precision=precision, calib=shown)
            told = partial(_tell, progress, precision)
            try:
                made[precision] = compiling(Path(folder) / precision, chosen, told)
            except (CheckFailed, Unsupported) as error:
                if precision == "float32":
                    raise
                failed.append(f"{precision} is left out: {error.message}")
        progress("measuring")
        ms = measured({name: Path(folder) / name for name in made}) if len(made) > 1 else {}
        best: Precision = min(ms, key=ms.__getitem__, default="float32")
        copy_bundle(read_bundle(Path(folder) / best), bundle)
    times = ", ".join(f"{one:.1f} ms in {name}" for name, one in ms.items()) or "no other runs"
    return made[best], (f"precision {best}, as measured here: {times}", *failed)


def _tell(progress: Callable[[str], None], name: str, what: str) -> None:
    progress(f"{name}: {what}")


def measured(bundles: dict[Precision, Path]) -> dict[Precision, float]:
    """Milliseconds that bundles take, run in turns; those that cannot be opened here have none."""
    found = {name: opened(path) for name, path in bundles.items()}
    runners = {name: runner for name, runner in found.items() if not isinstance(runner, str)}
    seconds: dict[Precision, list[float]] = {name: [] for name in runners}
    for number in range(1 + ROUNDS):
        for name, runner in runners.items():
            inputs = runner.bundle.manifest.inputs
            feeds = {key: np.zeros(shape, np.float32) for key, shape in inputs.items()}
            start = time.perf_counter()
            runner.run(feeds)
            seconds[name] += [time.perf_counter() - start] if number else []
    return {name: 1e3 * statistics.median(taken) for name, taken in seconds.items()}
