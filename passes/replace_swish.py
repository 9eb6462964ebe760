"""`replace-swish`: a gate of clips and products instead of the exponential function."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphopt.engine import Array
from graphopt.errors import InputError
from graphopt.fitting.activations import Walk, engine_of, part_of
from graphopt.graph import (
    constant,
    emit,
    is_standard,
    label,
    producer_of,
    remove_nodes,
    remove_unread,
    scalar_of,
    sort_nodes,
)
from graphopt.model import copy_model
from graphopt.passbase import Change, Context, Numerics, Pass, Skip, option

Doubles = NDArray[np.float64]


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
        gate=fitted    x * sigmoid(x)  ->  x * clip(a x + b, 0, 1), a and b fitted for each channel
        gate=hardtanh  x * sigmoid(x)  ->  hardtanh(x) = clip(x, -1, 1)
        Swish is found as Mul with Sigmoid, as a Swish or QuickGelu node, and as HardSwish; with a
        slope, x * sigmoid(a * x); and as e-Swish, with a constant factor on either operand.

    Numerics:
        Approximate. |swish(x) - hard(x)| is at most 0.143, at |x| = 3, and vanishes far from zero.
        It adds up with depth: EfficientPose I, 59 sites and no training afterwards, moves its
        outputs on a photo by 0.5 to 0.9 of their range. Measure before relying on it.
        gate=fitted costs as many operators; slope and offset are fitted to photos, one site after
        the other: least squares from what the changed network feeds the gate to what the
        original's Swish gave there. On EfficientPose I the error of the outputs, relative to their
        deviation, falls from 1.14 to 0.32 on photos that were not fitted on.
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

    gate: Literal["hard", "fitted", "hardtanh"] = option(
        "hard", "the function that takes Swish's place"
    )
    form: Literal["ops", "op"] = option(
        "ops", "write the hard gate as Add, Clip and Mul, or as one HardSwish node (opset 14)"
    )

    @property
    def needs_images(self) -> bool:
        return self.gate == "fitted"

    def prepare(self, graph: gs.Graph, context: Context) -> Pass[Site]:
        if self.gate != "fitted":
            return self
        if context.original is None or context.calibration is None:
            raise InputError(
                "gates are fitted to what the network sees, and there are no images to show it",
                hint="give a folder of photos with --calib, or take gate=hard",
            )
        return _Fitted(self.gate, self.form, gates=self._fit(graph, context))

    def _fit(self, graph: gs.Graph, context: Context) -> dict[str, Gate]:
        """A gate for each site, fitted behind those that come before it."""
        original, calibration = context.original, context.calibration
        assert original is not None
        assert calibration is not None
        scratch = copy_model(graph)
        sites = [found for found in self.match(scratch) if isinstance(found, Site)]
        if not sites:
            return {}
        plain = {site.nodes[0].outputs[0].name: _plain_gate(site) for site in sites}
        for site in sites:
            _Fitted(self.gate, self.form, gates=plain).rewrite(scratch, site)
        sort_nodes(scratch)
        images = calibration.fitting[:_IMAGES]
        targets = _sampled(original, list(plain), calibration.feeds(images))
        heads = _heads(scratch, list(plain))
        walk = Walk(scratch, list(heads.values()), calibration.feeds(images))
        gates = {}
        for count, (name, head) in enumerate(heads.items(), 1):
            context.progress(f"{self.name}: gate {count} of {len(heads)}")
            inputs = walk.advance_to(head)
            pairs = zip(inputs, targets.pop(name), strict=True)
            xs, ys = zip(*((_columns(x, at), y) for x, (at, y) in pairs), strict=True)
            start = plain[name]
            gate = start.fitted(np.concatenate(xs, axis=1), np.concatenate(ys, axis=1))
            gates[name] = gate
            _put(scratch, head, gate)
        return gates

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


@dataclass(frozen=True)
class _Fitted(ReplaceSwish):
    """The pass with its gates fitted."""

    gates: Mapping[str, Gate] = field(kw_only=True)
    """By the name of a site's output."""

    def rewrite(self, graph: gs.Graph, site: Site) -> Change | Skip:
        last, *inner = site.nodes
        name, y = label(last), last.outputs[0]
        gate = self.gates[y.name]
        remove_nodes(graph, [last])
        remove_unread(graph, inner)
        _emit_fitted(graph, site, y, gate)
        return Change(name, f"Swish becomes a fitted gate, slopes about {gate.slope.mean():.3f}")


# --- finding ------------------------------------------------------------------------------------


def _scaled(tensor: gs.Tensor) -> tuple[float, gs.Tensor, tuple[gs.Node, ...]]:
    """`tensor` as factor * core, and the constant products that were looked through."""
    maker = producer_of(tensor)
    if maker is None or not is_standard(maker, "Mul"):
        return 1.0, tensor, ()
    for index, other in ((0, 1), (1, 0)):
        factor = scalar_of(maker.inputs[index])
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


# --- fitting ------------------------------------------------------------------------------------

_IMAGES = 60
"""To fit gates on, at most."""
_POSITIONS = 32
"""Of each image. Two numbers a channel need no more."""
_STEPS = 25
"""Of the least squares."""


@dataclass(frozen=True)
class Gate:
    """bound * clip(slope * x + offset, 0, 1), with a slope and an offset for each channel."""

    slope: Doubles
    """[channels, 1], or [1, 1] for all alike."""
    offset: Doubles
    bound: float

    def __call__(self, x: Doubles) -> Doubles:
        """What `x * gate(x)` gives for [channels, n]."""
        gated: Doubles = self.bound * x * np.clip(self.slope * x + self.offset, 0, 1)
        return gated

    def fitted(self, x: Doubles, y: Doubles) -> Gate:
        """The gate with `x * gate(x)` nearest to y, both [channels, n]: Levenberg-Marquardt.

        A channel at a time, all channels at once; a step that does not help a channel is not taken.
        """
        slope = np.broadcast_to(self.slope, (len(x), 1))
        offset = np.broadcast_to(self.offset, (len(x), 1))
        damping = np.full_like(slope, 1e-3)
        best = np.square(self(x) - y).mean(axis=1, keepdims=True)
        for _ in range(_STEPS):
            line = slope * x + offset
            residual = self.bound * x * np.clip(line, 0, 1) - y
            by_offset = self.bound * x * ((line > 0) & (line < 1))
            by_slope = x * by_offset
            aa, bb, ab, ra, rb = (
                (u * v).sum(axis=1, keepdims=True)
                for u, v in (
                    (by_slope, by_slope),
                    (by_offset, by_offset),
                    (by_slope, by_offset),
                    (by_slope, residual),
                    (by_offset, residual),
                )
            )
            aa, bb = aa * (1 + damping) + 1e-9, bb * (1 + damping) + 1e-9
            determinant = aa * bb - ab**2
            steeper = slope - (bb * ra - ab * rb) / determinant
            shifted = offset - (aa * rb - ab * ra) / determinant
            error = np.square(Gate(steeper, shifted, self.bound)(x) - y).mean(axis=1, keepdims=True)
            better = (error < best) & (steeper > 0)
            slope, offset = np.where(better, steeper, slope), np.where(better, shifted, offset)
            best, damping = np.where(better, error, best), damping * np.where(better, 0.3, 10.0)
        return Gate(slope, offset, self.bound)


def _plain_gate(site: Site) -> Gate:
    return Gate(np.full((1, 1), site.slope / 6), np.full((1, 1), 0.5), site.factor)


def _columns(values: Array, positions: NDArray[np.intp]) -> Doubles:
    """[1, channels, …] at some positions: [channels, positions]."""
    columns: Doubles = values[0].reshape(values.shape[1], -1)[:, positions].astype(np.float64)
    return columns


def _sampled(
    graph: gs.Graph, names: Sequence[str], feeds: Iterable[Mapping[str, Array]]
) -> dict[str, list[tuple[NDArray[np.intp], Doubles]]]:
    """Of each named tensor some random positions in every image, and the values there."""
    rng = np.random.default_rng(0)
    engine = engine_of(part_of(graph, outputs=names))
    samples: dict[str, list[tuple[NDArray[np.intp], Doubles]]] = {name: [] for name in names}
    for feed in feeds:
        for name, values in engine.run(feed).items():
            size = math.prod(values.shape[2:])
            positions = rng.choice(size, min(_POSITIONS, size), replace=False)
            samples[name].append((positions, _columns(values, positions)))
    return samples


def _heads(graph: gs.Graph, names: Sequence[str]) -> dict[str, gs.Node]:
    """The first node of each fitted gate, by the name of what it makes, in topological order."""
    tensors = graph.tensors()
    heads = {}
    for name in names:
        product = tensors[name].inputs[0]
        shifted = product.inputs[1].inputs[0].inputs[0].inputs[0]
        heads[name] = shifted.inputs[0].inputs[0]
    order = {id(node): index for index, node in enumerate(graph.nodes)}
    return dict(sorted(heads.items(), key=lambda item: order[id(item[1])]))


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


def _emit_fitted(graph: gs.Graph, site: Site, y: gs.Tensor, gate: Gate) -> None:
    """Mul, Add, Clip, Mul: the site's factor is inside the gate."""
    scaled = emit(graph, "Mul", site.x, np.ones(1, site.x.dtype), out=f"{y.name}.scaled")
    shifted = emit(graph, "Add", scaled, np.ones(1, site.x.dtype), out=f"{y.name}.shifted")
    low, high = sorted((0.0, gate.bound))
    clipped = emit(graph, "Clip", shifted, low, high, out=f"{y.name}.gate")
    emit(graph, "Mul", site.x, clipped, out=y)
    _put(graph, scaled.inputs[0], gate)


def _put(graph: gs.Graph, head: gs.Node, gate: Gate) -> None:
    """Write a gate's numbers into its Mul and Add, shaped for the channels of what they read."""
    shifting = head.outputs[0].outputs[0]
    rank = len(head.inputs[0].shape or (None,) * 4)
    for node, values in ((head, gate.slope), (shifting, gate.offset)):
        shape = (1, -1, *(1,) * (rank - 2))
        shaped = (gate.bound * values).reshape(shape).astype(head.inputs[0].dtype)
        node.inputs[1] = constant(graph, node.inputs[1].name, shaped)


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
