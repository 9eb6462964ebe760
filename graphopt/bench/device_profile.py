"""Measures a machine's own profile (`analysis.latency.device.Device`): the plain function behind
`graphopt profile`.

A network made of every class of layer, over a range of channels and sizes, is compiled and timed
launch by launch; then the rates, bandwidth and launch cost of the latency model are fitted to those
times. The same network in each lower precision gives its rates. No layer of a real network is
needed, or looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import onnx_graphsurgeon as gs

from graphopt.analysis.latency.device import Device, Figure, LayerClass, Precision
from graphopt.analysis.latency.work import Work, work_of
from graphopt.bench.calibration_network import calibration_network, in_eight_bits
from graphopt.bench.options import ProfileOptions
from graphopt.bench.profile_fit import FITTED, Profile, fit, fit_rates
from graphopt.compiler.auto_precision import candidates
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.errors import GraphoptError
from graphopt.ir.convolution import Convolution
from graphopt.ir.graph import label
from graphopt.ir.onnx_io import load_model, save_model
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.syntax import PRESETS, parse_pipeline
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.layer_times import layer_times
from graphopt.runtime.opencl import device_name
from graphopt.runtime.runner import LayerTime
from graphopt.runtime.threads import usable_cores

_KERNEL_WORDS = {
    "resample": ("Resize", "Upsample"),
    "concatenate": ("Concat",),
    "max_pool2d": ("MaxPool",),
    "avg_pool2d": ("AveragePool",),
    "conv2d_transpose": ("ConvTranspose",),
    "mean": ("GlobalAveragePool", "ReduceMean"),
    "multiply": ("Mul",),
    "sigmoid": ("Sigmoid",),
}
"""The word in the name of a kernel that the compiler's framework made -> what it may compute."""


def matched(kernels: Sequence[Work], times: Sequence[LayerTime]) -> list[tuple[Work, float]]:
    """Predicted kernels with the milliseconds that were measured for them.

    Convolutions carry their node's name. Other launches only carry names such as
    `fused_concatenate_sigmoid`: those whose first operator is the same are paired in order, where
    there are as many of them as predicted. Launches that change a layout have no partner.

    Args:
        kernels: of a graph, in order, see `work_of`.
        times: of the layers of the bundle compiled from it, in order.
    """
    measured = {time.layer: time.ms for time in times if time.macs}
    pairs = [(work, measured[label(work.node)]) for work in kernels if label(work.node) in measured]
    for word, ops in _KERNEL_WORDS.items():
        theirs = [t.ms for t in times if not t.macs and _first_word(t.kernel) == word]
        ours = [w for w in kernels if w.node.op in ops and label(w.node) not in measured]
        if len(ours) == len(theirs):
            pairs += zip(ours, theirs, strict=True)
    return pairs


def _first_word(kernel: str) -> str | None:
    places = {word: kernel.find(word) for word in _KERNEL_WORDS if word in kernel}
    return min(places, key=places.__getitem__, default=None)


def profile_machine(
    options: ProfileOptions = ProfileOptions(),
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> Profile:
    """Measure this machine.

    Args:
        options: what is measured. Threads are those of an OpenCL device that is the CPU, too;
            without a number, one for each core that the process may use.
        progress: told what is being done.

    Raises:
        GraphoptError: the target is not there, or this machine cannot run it.
    """
    target, threads = options.target, options.threads or usable_cores()
    device_name(target, threads)  # before anything else starts OpenCL with another number
    made = _timed("float32", target, threads, progress)
    fewest = _winograd_channels(made.graph, made.times)
    kinds = FITTED if fewest is None else tuple(LayerClass)
    start = Figure(value=20, source="start")
    template = Device(
        name=target,
        description=f"{device_name('cpu')}, target {target}, {threads} thread{'s' * (threads > 1)}",
        lanes=made.lanes,
        rates=dict.fromkeys(kinds, start),
        winograd_channels=fewest,
        bandwidth=start,
        launch=start,
    )
    progress("fitting")
    command = f"graphopt profile --target {target} --threads {threads}"
    profile = fit(matched(work_of(made.graph, template), made.times), template, command)
    found, errors, unknown = dict(profile.device.precisions), dict(profile.errors), []
    for precision in (*candidates(CompileOptions(target=target))[1:], "int8"):
        try:
            made = _timed(precision, target, threads, progress)
        except GraphoptError as error:
            unknown.append(f"{precision}: {error.message}.")
            continue
        bare = replace(profile.device, precisions={precision: {}})
        bare = bare if precision == "int8" else bare.computing_in(precision) or bare
        pairs = matched(work_of(made.graph, bare), made.times)
        found[precision], errors[precision] = fit_rates(pairs, profile.device, precision, command)
    device = replace(profile.device, precisions=found, unknown=tuple(unknown))
    return replace(profile, device=device, errors=errors)


class _Timed(NamedTuple):
    """The calibration network, as it is compiled, and how long its layers take."""

    graph: gs.Graph
    times: Sequence[LayerTime]
    lanes: int


def _timed(
    precision: Precision, target: str, threads: int, progress: Callable[[str], None]
) -> _Timed:
    """Compile the calibration network in a precision, and time it.

    Raises:
        GraphoptError: the target cannot compute in it.
    """

    def told(what: str) -> None:
        progress(f"{precision}: {what}")

    network = calibration_network()
    with TemporaryDirectory(prefix="graphopt-profile-") as folder:
        path, bundle = Path(folder) / "calibration.onnx", Path(folder) / "bundle"
        save_model(in_eight_bits(network) if precision == "int8" else network, path)
        # Estimated kernels; and its outputs are random numbers' means, of which rounding leaves
        # little.
        options = CompileOptions(target=target, tuning="off", precision=precision, on_fail="warn")
        compile_model(path, bundle, options, progress=told)
        times = layer_times(bundle, threads=threads, progress=told)
        plan = read_bundle(bundle).plan
        graph = run_pipeline(load_model(path), parse_pipeline(PRESETS["exact"]), verify="off").graph
    # Blocked activations are the only tensors of five dimensions that weights.bin does not hold.
    lanes = next(t.shape[-1] for t in plan.tensors if len(t.shape) == 5 and t.arena != -1)
    return _Timed(graph, times, lanes)


def _winograd_channels(graph: gs.Graph, times: Sequence[LayerTime]) -> Figure | None:
    """The fewest channels that the compiler took Winograd's algorithm for; None: it did not."""
    layers = {time.layer for time in times if time.kernel.startswith("conv_winograd")}
    specs = [Convolution.of(node) for node in graph.nodes if label(node) in layers]
    channels = [min(spec.in_channels, spec.out_channels) for spec in specs if spec is not None]
    if not channels:
        return None
    return Figure(value=min(channels), source="the fewest that the compiler took the algorithm for")
