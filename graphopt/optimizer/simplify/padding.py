"""Padding where every reader understands it: as explicit pads of the convolution itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.convolution import Convolution
from graphopt.ir.graph import constant_of, input_of, is_standard, label, producer_of, scalar_of
from graphopt.optimizer.simplify.rule import Edit, Site, Sweep, node_rule


@node_rule("Conv")
def explicit_pads(_: Sweep, node: gs.Node) -> Site | None:
    """A convolution's auto_pad becomes explicit pads where the input's size is known."""
    spec = Convolution.of(node)
    if spec is None or spec.pads is None or node.attrs.get("auto_pad", "NOTSET") == "NOTSET":
        return None
    return Site(node, "auto_pad becomes explicit pads", _padding(node, spec.pads))


@node_rule("Conv")
def absorbed_pad(_: Sweep, node: gs.Node) -> Site | None:
    """A Pad by zeros before a convolution becomes part of its pads."""
    spec = Convolution.of(node)
    if spec is None or spec.pads is None:
        return None
    maker = producer_of(node.inputs[0])
    before = _zero_padding(maker) if maker is not None and is_standard(maker, "Pad") else None
    if maker is None or before is None:
        return None
    pads = tuple(int(a + b) for a, b in zip(spec.pads, before, strict=True))
    return Site(node, f"takes in {label(maker)}", _padding(node, pads, maker.inputs[0]))


def _zero_padding(pad: gs.Node) -> list[int] | None:
    """Begins and ends of the spatial axes, where nothing else is padded and with zeros only."""
    amounts, value = constant_of(pad.inputs[1]), input_of(pad, 2)
    if amounts is None or pad.attrs.get("mode", "constant") != "constant" or input_of(pad, 3):
        return None
    begins, ends = np.split(amounts.astype(np.int64), 2)
    if (value is not None and scalar_of(value) != 0) or min(*begins, *ends) < 0:
        return None
    return None if begins[:2].any() or ends[:2].any() else [*begins[2:], *ends[2:]]


def _padding(node: gs.Node, pads: Sequence[int], source: gs.Tensor | None = None) -> Edit:
    def edit(_: gs.Graph) -> None:
        node.attrs.pop("auto_pad", None)
        node.attrs["pads"] = list(pads)
        if source is not None:
            node.inputs[0] = source

    return edit
