"""Measures a machine's own profile (`analysis.latency.device.Device`): the plain function behind
`graphopt profile`.

A network made of every class of layer, over a range of channels and sizes, is compiled and timed
launch by launch; then the rates, bandwidth and launch cost of the latency model are fitted to those
times. No layer of a real network is needed, or looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from scipy.optimize import least_squares

from graphopt.analysis.latency.device import Device, Figure, LayerClass
from graphopt.analysis.latency.predict import time_of
from graphopt.analysis.latency.work import Work, work_of
from graphopt.bench.options import ProfileOptions
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.ir.convolution import Convolution
from graphopt.ir.edit import emit
from graphopt.ir.graph import label
from graphopt.ir.network import Network
from graphopt.ir.onnx_io import load_model, save_model
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.syntax import PRESETS, parse_pipeline
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.layer_times import layer_times
from graphopt.runtime.opencl import device_name
from graphopt.runtime.runner import LayerTime
from graphopt.runtime.threads import usable_cores

# --- the network --------------------------------------------------------------------------------

CHAINS = (
    (16, 120, 200),
    (40, 88, 136),
    (64, 60, 104),
    (128, 30, 52),
    (128, 60, 104),
    (192, 44, 72),
    (256, 16, 24),
    (320, 24, 40),
    (512, 20, 32),
)
"""Channels, height and width of the tensors that layers are timed on: what pose networks have,
from the first layers after a photo to the last."""

STEMS = ((16, 224, 320), (48, 160, 240))
"""Filters, height and width of first layers, which read three channels."""


@dataclass(frozen=True)
class _Conv:
    """A convolution of a chain: filters are channels * `numerator` // `denominator`."""

    kernel: int
    dilation: int = 1
    depthwise: bool = False
    numerator: int = 1
    denominator: int = 1


LAYERS = (
    _Conv(1),
    _Conv(3),
    _Conv(3, depthwise=True),
    _Conv(3, dilation=2),
    _Conv(1, numerator=2),
    _Conv(1, denominator=2),
    _Conv(3, numerator=2),
    _Conv(3, denominator=2),
    _Conv(5),  # never by Winograd's algorithm
    _Conv(3, dilation=2, depthwise=True),
    _Conv(1, depthwise=True),
    _Conv(7, depthwise=True),
)
"""What each chain does, layer after layer."""

WORK_LIMIT = 250_000_000
"""Layers of more multiply-adds than this are left out: what takes several milliseconds is always
interrupted on a machine that has other things to do."""


def calibration_network() -> Network:
    """Chains of layers of every class; random weights, one input a chain, opset 17."""
    rng = np.random.default_rng(0)
    graph = Network(opset=17, name="calibration")

    def tensor(name: str, *shape: int) -> gs.Tensor:
        variable = gs.Variable(name, np.float32, [1, *shape])
        graph.inputs.append(variable)
        return variable

    def conv(x: gs.Tensor, channels: int, filters: int, layer: _Conv, stride: int = 1) -> gs.Tensor:
        shape = (filters, 1 if layer.depthwise else channels, layer.kernel, layer.kernel)
        weight = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return emit(
            graph,
            "Conv",
            x,
            weight.astype(np.float32),
            out="conv",
            strides=[stride] * 2,
            dilations=[layer.dilation] * 2,
            pads=[layer.dilation * (layer.kernel // 2)] * 4,
            group=channels if layer.depthwise else 1,
        )

    def finish(x: gs.Tensor, channels: int) -> None:
        # The mean of all is a small output: unpacking large ones would be all that is timed.
        pooled = emit(graph, "GlobalAveragePool", x, out="pooled")
        pooled.shape = [1, channels, 1, 1]
        graph.outputs.append(pooled)

    for filters, height, width in STEMS:
        x = tensor(f"photo{height}", 3, height, width)
        x = conv(x, 3, filters, _Conv(3), stride=2)
        finish(conv(x, filters, 2 * filters, _Conv(3), stride=2), 2 * filters)
    for channels, height, width in CHAINS:
        x = first = tensor(f"x{channels}x{height}", channels, height, width)
        now = channels
        for layer in LAYERS:
            filters = now if layer.depthwise else now * layer.numerator // layer.denominator
            macs = height * width * filters * layer.kernel**2 * (1 if layer.depthwise else now)
            if layer.depthwise or (macs <= WORK_LIMIT and filters <= 1024):
                x, now = conv(x, now, filters, layer), filters
        # Activations inside a convolution, in a kernel of their own, and none but traffic.
        gated = emit(graph, "Sigmoid", conv(x, now, channels, _Conv(1)), out="gated")
        both = emit(graph, "Concat", gated, first, out="both", axis=1)
        half = conv(both, 2 * channels, channels, _Conv(1))
        again = emit(graph, "Concat", half, first, out="again", axis=1)
        finish(emit(graph, "Sigmoid", again, out="gates"), 2 * channels)
        small = emit(graph, "MaxPool", half, out="small", kernel_shape=[2, 2], strides=[2, 2])
        twice = np.array([1, 1, 2, 2], np.float32)
        finish(emit(graph, "Resize", small, None, twice, out="large", mode="linear"), channels)
    graph.cleanup().toposort()
    return graph


# --- timing -------------------------------------------------------------------------------------

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


# --- fitting ------------------------------------------------------------------------------------


FITTED = tuple(kind for kind in LayerClass if kind is not LayerClass.WINOGRAD)
"""The classes that have a rate on any machine; Winograd's where a kernel for it was chosen."""


@dataclass(frozen=True)
class Profile:
    """A measured device.

    Args:
        device: the profile.
        kernels: how many kernels it was fitted to.
        error: mean relative difference of predicted to measured time over them.
    """

    device: Device
    kernels: int
    error: float


def fit(pairs: Sequence[tuple[Work, float]], template: Device, command: str) -> Profile:
    """Fit the figures of the latency model to measured kernels.

    The sum of squared logarithms of predicted over measured time is made small (soft L1, so that a
    disturbed measurement cannot pull it), since a factor of two is as wrong for a small kernel as
    for a large one.

    Args:
        pairs: kernels, and milliseconds for each.
        template: what is not fitted: lanes, bytes of an element, names.
        command: what to say about where the figures come from.
    """
    amounts = [work.amounts() for work, _ in pairs]
    # A class that no launch could be found for is left to the class that stands in for it.
    kinds = [kind for kind in template.rates if any(todo.get(kind) for todo in amounts)]

    def device(values: Sequence[float], source: str) -> Device:
        *rates, bandwidth, launch = (Figure(value=v, source=source) for v in values)
        return replace(
            template, rates=dict(zip(kinds, rates, strict=True)), bandwidth=bandwidth, launch=launch
        )

    # The model's terms as arrays: operations for each kernel and rate, bytes, and times.
    operations = np.array([[todo.get(kind, 0.0) for kind in kinds] for todo in amounts])
    traffic = np.array([w.bytes for w, _ in pairs], np.float64)
    measured = np.array([ms for _, ms in pairs])
    moves = np.array([kind is LayerClass.BANDWIDTH for kind in kinds])

    # Start where most kernels of a class lie below the roof that its rate and the bandwidth are.
    speeds = np.column_stack([operations, traffic]) / measured[:, None] * 1e-6
    roofs = [np.percentile(column[column > 0], 80) for column in speeds.T]
    start = np.log([*roofs, max(1e3 * measured.min(), 1.1)])

    def residuals(logarithms: Any) -> Any:
        *_, bandwidth, launch = np.exp(logarithms)
        spent = operations * np.exp(-logarithms[:-2])
        moving = np.maximum(spent @ moves, traffic / bandwidth)
        compute = spent @ ~moves
        ms = np.maximum(compute, moving) * 1e-6 + launch * 1e-3
        off = np.log(ms / measured)
        # Other programs only ever make a kernel slower: to be faster than was measured is the
        # smaller fault. What no kernel depends on stays where it starts.
        return np.append(np.where(off < 0, 0.4, 1.0) * off, 0.05 * (logarithms - start))

    # Nothing is launched in less than a microsecond; beside kernels that all take long, a fit could
    # not tell.
    least = [-np.inf] * (len(start) - 1) + [0.0]
    found = least_squares(residuals, start, bounds=(least, np.inf), loss="soft_l1", f_scale=0.1)
    values = [float(f"{value:.3g}") for value in np.exp(found.x)]
    error = np.mean([abs(time_of(w, device(values, command))[0] / ms - 1) for w, ms in pairs])
    source = f"{command}: fit to {len(pairs)} kernels, mean error {error:.0%}"
    return Profile(device(values, source), len(pairs), float(error))


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
    with TemporaryDirectory(prefix="graphopt-profile-") as folder:
        path, bundle = Path(folder) / "calibration.onnx", Path(folder) / "bundle"
        save_model(calibration_network(), path)
        estimated = CompileOptions(target=target, tuning="off")
        compile_model(path, bundle, estimated, progress=progress)
        times = layer_times(bundle, threads=threads, progress=progress)
        plan = read_bundle(bundle).plan
        graph = run_pipeline(load_model(path), parse_pipeline(PRESETS["exact"]), verify="off").graph
    # Blocked activations are the only tensors of five dimensions that weights.bin does not hold.
    lanes = next(t.shape[-1] for t in plan.tensors if len(t.shape) == 5 and t.arena != -1)
    start = Figure(value=20, source="start")
    fewest = _winograd_channels(graph, times)
    kinds = FITTED if fewest is None else tuple(LayerClass)
    cores = f"{threads} thread{'s' * (threads > 1)}"
    template = Device(
        name=target,
        description=f"{device_name('cpu')}, target {target}, {cores}",
        lanes=lanes,
        rates=dict.fromkeys(kinds, start),
        winograd_channels=fewest,
        bandwidth=start,
        launch=start,
    )
    progress("fitting")
    pairs = matched(work_of(graph, template), times)
    return fit(pairs, template, f"graphopt profile --target {target} --threads {threads}")


def _winograd_channels(graph: gs.Graph, times: Sequence[LayerTime]) -> Figure | None:
    """The fewest channels that the compiler took Winograd's algorithm for; None: it did not."""
    layers = {time.layer for time in times if time.kernel.startswith("conv_winograd")}
    specs = [Convolution.of(node) for node in graph.nodes if label(node) in layers]
    channels = [min(spec.in_channels, spec.out_channels) for spec in specs if spec is not None]
    if not channels:
        return None
    return Figure(value=min(channels), source="the fewest that the compiler took the algorithm for")


# --- the file -----------------------------------------------------------------------------------


_UNITS = {
    "bandwidth": "GB/s",
    "launch": "microseconds",
    "peak": "GFLOP/s",
    "exponential": "1e9 a second",
    "exponential_alone": "1e9 a second",
    "reduction": "1e9 elements read a second",
    "resize": "1e9 elements read a second",
}
