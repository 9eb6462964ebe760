"""How long a network will take on a device, predicted layer by layer from a profile of the device.

A kernel's time is the larger of its arithmetic and its memory traffic, plus a fixed cost a launch:

    t = max(2 * MACs / rate[class] + exponentials / rate[exponential], bytes / bandwidth) + launch

This is the roofline model (Williams, Waterman and Patterson, CACM 52(4), 2009) with a rate for each
class of kernel, since no engine runs a depthwise and a 1x1 convolution equally well. Element-wise
nodes that the compiler lets a convolution do on its way out cost nothing of their own, except
their exponentials; see `fusion`.

A profile is a TOML file (`devices/*.toml`); each of its figures says where it comes from. What a
profile gives are predictions to rank rewrites by, not measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import onnx_graphsurgeon as gs

from graphopt.analysis.latency.device import Device, LayerClass, Precision
from graphopt.analysis.latency.work import DIRECT_CLASS, LayerFacts, Work, class_of, works_of
from graphopt.ir.edit import sort_nodes
from graphopt.ir.graph import is_standard, label
from graphopt.ir.identity import IdentityMap
from graphopt.ir.network import Network
from graphopt.runtime.sample_inputs import bound_shapes

Bound: TypeAlias = Literal["compute", "bandwidth", "launch"]


@dataclass(frozen=True)
class LayerLatency:
    """The predicted time of one node."""

    node: str
    op: str
    kind: LayerClass
    macs: int
    bytes: int
    """Bytes that the kernel moves, with what is fused into it; 0 for nodes without a kernel."""
    ms: float
    bound: Bound | None
    """What most of the time goes into; None for nodes without a kernel of their own."""
    fused_into: str | None = None
    """The node whose kernel does this one too, at no cost but what that kernel's time says."""
    precision: Precision | None = None
    """What it multiplies in; None where it does not."""


def predict(
    graph: gs.Graph, device: Device, shapes: Mapping[str, Sequence[int]] | None = None
) -> list[LayerLatency]:
    """The time of every node of a graph on a device.

    Args:
        graph: the graph, its nodes in order.
        device: the profile.
        shapes: sizes for the inputs; dynamic inputs need them.

    Returns:
        An entry for each node, in order.

    Raises:
        InputError: a shape that the time depends on is not known; names the node.
    """
    facts = LayerFacts.of(graph, shapes)
    work = IdentityMap((w.node, w) for w in works_of(graph, device, facts))
    layers = []
    for node in graph.nodes:
        host, kernel = facts.hosts.get(node), work.get(node)
        kind = kernel.kind if kernel else class_of(node, device)
        op = node.op if is_standard(node) else f"{node.domain}.{node.op}"
        ms, bound = time_of(kernel, device) if kernel else (0.0, None)
        layers.append(
            LayerLatency(
                node=label(node),
                op=op,
                kind=kind,
                macs=kernel.macs if kernel else 0,
                bytes=kernel.bytes if kernel else 0,
                ms=ms,
                bound=bound,
                fused_into=None if host is None else label(host),
                precision=kernel.precision if kernel and kernel.macs else None,
            )
        )
    return layers


def total_ms(layers: Iterable[LayerLatency]) -> float:
    """The whole network's predicted time: its kernels run one after the other."""
    return sum(layer.ms for layer in layers)


SIZE = (368, 656)
"""Height and width to predict at where the network takes any and nothing says a better one."""


def judged_shapes(graph: gs.Graph) -> Mapping[str, tuple[int, ...]]:
    """The sizes a network is judged at: its header's, else its own, dynamic extents of `SIZE`."""
    return Network.of(graph).header.sizes or bound_shapes(graph, SIZE)


def network_ms(graph: gs.Graph, device: Device) -> float:
    """The whole network's predicted time at `judged_shapes`.

    Raises:
        InputError: see `predict`.
    """
    return total_ms(predict(graph, device, judged_shapes(graph)))


def rewritten_ms(graph: gs.Graph, device: Device, rewrite: Callable[[gs.Graph], object]) -> float:
    """The same after a rewriting, which is applied to a copy."""
    rewritten = graph.copy()
    rewrite(rewritten)
    sort_nodes(rewritten)
    return network_ms(rewritten, device)


def time_of(work: Work, device: Device) -> tuple[float, Bound]:
    """Milliseconds of one kernel, and what most of them go into.

    A pruned convolution is run by whichever is faster, the sparse kernel or the best dense one.
    """
    dense = _time_of(work, device)
    if work.kept == 1 or work.kind not in DIRECT_CLASS:
        return dense
    part = work.kept * (1 + (device.sparse_overhead.value if device.sparse_overhead else 0.0))
    sparse = replace(work, kind=DIRECT_CLASS[work.kind], operations=part * work.operations)
    return min(dense, _time_of(sparse, device))


def _time_of(work: Work, device: Device) -> tuple[float, Bound]:
    amounts = work.amounts()
    moved = amounts.pop(LayerClass.BANDWIDTH, 0.0) / (device.rate(LayerClass.BANDWIDTH) or math.inf)
    compute = sum(
        n / rate for kind, n in amounts.items() if (rate := device.rate(kind, work.precision))
    )
    parts: dict[Bound, float] = {
        "compute": compute * 1e-6,
        "bandwidth": max(moved, work.bytes / device.bandwidth.value) * 1e-6,
        "launch": device.launch.value * 1e-3,
    }
    ms = max(parts["compute"], parts["bandwidth"]) + parts["launch"]
    return ms, max(parts, key=lambda part: parts[part])
