"""`replace-swish`: a gate of clips and products instead of the exponential function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_graphsurgeon as gs

from graphopt.graph import (
    emit,
    is_standard,
    label,
    producer_of,
    remove_nodes,
    remove_unread,
    scalar_of,
)
from graphopt.passbase import Change, Numerics, Pass, Skip, option


@dataclass(frozen=True)
class Site:
    """`factor * x * gate(slope * x)`, and the nodes that compute it, the last one first."""

    x: gs.Tensor
    slope: float
    factor: float
    nodes: tuple[gs.Node, ...]


@dataclass(frozen=True)
class ReplaceSwish(Pass[Site]):
    """Replace Swish, x * sigmoid(x), by an activation without exponentials.

    Rewrite:
        gate=hard      x * sigmoid(x)  ->  x * (hardtanh(x / 3) + 1) / 2 = x * clip(x + 3, 0, 6) / 6
        gate=hardtanh  x * sigmoid(x)  ->  hardtanh(x) = clip(x, -1, 1)
        Swish is found as Mul with Sigmoid, as a Swish or QuickGelu node, and as HardSwish; with a
        slope, x * sigmoid(a * x); and as e-Swish, with a constant factor on either operand.

    Numerics:
        Approximate. |swish(x) - hard(x)| is at most 0.143, at |x| = 3, and vanishes far from zero.
        It adds up with depth: EfficientPose I, 59 sites and no training afterwards, moves its
        outputs on a photo by 0.5 to 0.9 of their range. Measure before relying on it.
        gate=hardtanh is another function: bounded, and negative for every negative x. It needs
        training afterwards; it is here since published mobile pose networks were built that way.

    Why:
        Exponentials are slow on mobile GPUs; clips and products fuse into the convolution before
        them (Howard et al., "Searching for MobileNetV3", ICCV 2019, section 5.2; Swish:
        Ramachandran et al., "Searching for Activation Functions", 2017; e-Swish: Alcaide, 2018).

    When it skips:
        The Sigmoid gates another tensor, as in squeeze-and-excitation; a HardSwish node is asked
        for and the opset is older than 14.
    """

    name: ClassVar[str] = "replace-swish"
    numerics: ClassVar[Numerics] = Numerics.APPROXIMATE

    gate: Literal["hard", "hardtanh"] = option("hard", "the function that takes Swish's place")
    form: Literal["ops", "op"] = option(
        "ops", "write the hard gate as Add, Clip and Mul, or as one HardSwish node (opset 14)"
    )

    def match(self, graph: gs.Graph) -> Iterator[Site | Skip]:
        for node in list(graph.nodes):
            if not node.outputs:
                continue
            site = _product(node) if is_standard(node, "Mul") else _single(node)
            if site is None:
                continue
            as_node = self.gate == "hard" and self.form == "op"
            if isinstance(site, Site) and as_node and node.op == "HardSwish":
                continue
            if isinstance(site, Site) and as_node and graph.opset < 14:
                yield Skip(label(node), f"opset {graph.opset} has no HardSwish: use form=ops")
            else:
                yield site

    def rewrite(self, graph: gs.Graph, site: Site) -> Change | Skip:
        last, *inner = site.nodes
        name, y = label(last), last.outputs[0]
        remove_nodes(graph, [last])
        remove_unread(graph, inner)
        if self.gate == "hardtanh":
            _emit_hardtanh(graph, site, y)
        elif self.form == "op":
            _emit_hard_node(graph, site, y)
        else:
            _emit_hard(graph, site, y)
        return Change(name, f"Swish becomes {self.gate}")


# --- finding ------------------------------------------------------------------------------------


def _scaled(tensor: gs.Tensor) -> tuple[float, gs.Tensor, tuple[gs.Node, ...]]:
    """`tensor` as factor * core, and the constant products that were looked through."""
    maker = producer_of(tensor)
    if maker is None or not is_standard(maker, "Mul"):
        return 1.0, tensor, ()
    for constant, other in ((0, 1), (1, 0)):
        factor = scalar_of(maker.inputs[constant])
        # A constant of higher rank than the tensor would change the tensor's rank as well.
        core = maker.inputs[other]
        if factor is not None and _rank(core) == _rank(tensor) is not None:
            more, inner, nodes = _scaled(core)
            return factor * more, inner, (maker, *nodes)
    return 1.0, tensor, ()


def _rank(tensor: gs.Tensor) -> int | None:
    return None if tensor.shape is None else len(tensor.shape)


def _product(node: gs.Node) -> Site | Skip | None:
    """Mul of a tensor and a Sigmoid of the same tensor, each up to a constant factor."""
    gates = []
    for gate, other in ((0, 1), (1, 0)):
        outer, tensor, gate_nodes = _scaled(node.inputs[gate])
        sigmoid = producer_of(tensor)
        if sigmoid is None or not is_standard(sigmoid, "Sigmoid"):
            continue
        gates.append(node.inputs[gate])
        z, value = sigmoid.inputs[0], node.inputs[other]
        factor, x, value_nodes = _scaled(value)
        if z is value or z is x:
            # Swish itself, or e-Swish: constant factors inside x are x's own business.
            x, factor, value_nodes = (value, 1.0, ()) if z is value else (x, factor, value_nodes)
            return Site(x, 1.0, outer * factor, (node, *value_nodes, *gate_nodes, sigmoid))
        slope, core, slope_nodes = _scaled(z)
        if core is x and slope:
            nodes = (node, *value_nodes, *gate_nodes, sigmoid, *slope_nodes)
            return Site(x, slope, outer * factor, nodes)
    return Skip(label(node), "the Sigmoid gates another tensor: no Swish") if gates else None


_SINGLE = {
    # operator: (domains, attribute of the slope, its default)
    "Swish": ((None, "", "ai.onnx"), "alpha", 1.0),
    "HardSwish": ((None, "", "ai.onnx"), "", 1.0),
    "QuickGelu": (("com.microsoft",), "alpha", 1.702),
}


def _single(node: gs.Node) -> Site | None:
    domains, attribute, default = _SINGLE.get(node.op, ((), "", 1.0))
    if node.domain not in domains:
        return None
    return Site(node.inputs[0], float(node.attrs.get(attribute, default)), 1.0, (node,))


# --- writing ------------------------------------------------------------------------------------


def _times(graph: gs.Graph, x: gs.Tensor, factor: float, out: gs.Tensor | str) -> gs.Tensor:
    """`factor * x`; no node where the factor is one and no particular tensor is asked for."""
    if factor == 1.0 and isinstance(out, str):
        return x
    return emit(graph, "Mul", x, factor, out=out)


def _emit_hard(graph: gs.Graph, site: Site, y: gs.Tensor) -> None:
    scaled = _times(graph, site.x, site.slope, f"{y.name}.scaled")
    shifted = emit(graph, "Add", scaled, 3.0, out=f"{y.name}.shifted")
    gate = emit(graph, "Clip", shifted, 0.0, 6.0, out=f"{y.name}.gate")
    product = emit(graph, "Mul", site.x, gate, out=f"{y.name}.product")
    emit(graph, "Mul", product, site.factor / 6.0, out=y)


def _emit_hard_node(graph: gs.Graph, site: Site, y: gs.Tensor) -> None:
    # c * x * gate(a * x) = c / a * hardswish(a * x)
    scaled = _times(graph, site.x, site.slope, f"{y.name}.scaled")
    factor = site.factor / site.slope
    if factor == 1.0:
        emit(graph, "HardSwish", scaled, out=y)
    else:
        _times(graph, emit(graph, "HardSwish", scaled, out=f"{y.name}.gated"), factor, y)


def _emit_hardtanh(graph: gs.Graph, site: Site, y: gs.Tensor) -> None:
    if site.factor == site.slope == 1.0:
        emit(graph, "Clip", site.x, -1.0, 1.0, out=y)
        return
    scaled = _times(graph, site.x, site.slope, f"{y.name}.scaled")
    clipped = emit(graph, "Clip", scaled, -1.0, 1.0, out=f"{y.name}.clipped")
    _times(graph, clipped, site.factor / site.slope, y)
