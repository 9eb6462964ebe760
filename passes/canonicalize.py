"""`canonicalize`: the same network with nothing superfluous in it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import onnx_graphsurgeon as gs
from pydantic import Field

from graphopt.ir.edit import live_nodes, remove_nodes
from graphopt.ir.graph import (
    is_standard,
    label,
)
from graphopt.ir.qoperators import expand, is_qoperator, objection
from graphopt.optimizer.pass_contract import Change, Numerics, Pass, Skip, option
from graphopt.optimizer.simplify.constants import (
    constant_node,
    decided_if,
    foldable,
)
from graphopt.optimizer.simplify.duplicates import duplicate, equal_initializers
from graphopt.optimizer.simplify.no_ops import no_op
from graphopt.optimizer.simplify.rule import Edit, Site


@dataclass(frozen=True)
class Canonicalize(Pass[Site]):
    """Remove what computes nothing, and compute now what never changes.

    Rewrite:
        Constant nodes become initializers, and nodes whose inputs are all constant become their
        values, computed by onnxruntime. Shapes that are known are such values, also single extents
        of partly dynamic shapes: Gather(Shape(x), 1) -> the number of channels.
        Nodes that hand their input on are taken out: Identity, Dropout, Cast to the same type, Pad
        by nothing, Slice of everything, Concat and Split of one, Reshape, Squeeze, Unsqueeze,
        Flatten and Expand to the same shape, Transpose by the identity, pooling over one element,
        Resize by one, + 0, - 0, * 1, / 1, and a Relu after something that is never negative.
        Transpose after Transpose becomes one or none; a Reshape reads from before the Reshape,
        Squeeze, Unsqueeze or Flatten that it undoes.
        A convolution's auto_pad becomes explicit pads where the input's size is known, and a Pad by
        zeros before a convolution becomes part of its pads.
        Of an If whose condition never changes, the branch that it takes remains.
        Of nodes that compute the same from the same, and of equal initializers, one remains.
        Operators on quantised tensors (QLinearConv, QLinearMatMul, onnxruntime's QLinearAdd and its
        kin, ConvInteger, MatMulInteger) become the float operator between DequantizeLinear and
        QuantizeLinear, which engines read as such; the weights stay whole numbers.
        What no output depends on is removed.

    Numerics:
        Exact: every value is what it was. A quantised one may fall to the next step, where rounding
        decides.

    Why:
        Exporters leave such nodes behind; each is a kernel launch on a phone, and hides patterns
        from the passes that come after.

    When it skips:
        A folded value would be larger than `fold_limit` and than what it is computed from; an
        operator draws random numbers, or restores quantized weights (folding would undo the
        compression); both ends of a no-op are outputs of the network, or input and output; equal
        initializers are read by an operator that may write into them; quantised operands have
        scales along several axes, or channels last.
    """

    name: ClassVar[str] = "canonicalize"
    numerics: ClassVar[Numerics] = Numerics.EXACT
    repeat: ClassVar[bool] = True

    fold_limit: Annotated[int, Field(ge=0)] = option(
        1 << 20, "largest folded constant in bytes, unless it is no larger than its sources"
    )

    def match(self, graph: gs.Graph) -> Iterator[Site | Skip]:
        yield from _dead(graph)
        seen: dict[Hashable, gs.Node] = {}
        for node in list(graph.nodes):
            if not node.outputs:
                continue
            if is_qoperator(node):
                yield _expanded(graph, node)
            if is_qoperator(node) or not is_standard(node):
                continue
            found = (
                constant_node(node)
                or decided_if(node)
                or foldable(graph, node, self.fold_limit)
                or no_op(graph, node)
                or duplicate(graph, node, seen)
            )
            if found is not None:
                yield found
        yield from equal_initializers(graph)
        yield from _dead(graph)

    def rewrite(self, graph: gs.Graph, site: Site) -> Change | Skip:
        change = Change(label(site.node), site.summary)
        site.edit(graph)
        return change


def _expanded(graph: gs.Graph, node: gs.Node) -> Site | Skip:
    against = objection(graph, node)
    if against:
        return Skip(label(node), against)
    what = f"{node.op} becomes a float operator between DequantizeLinear and QuantizeLinear"
    return Site(node, what, lambda graph: expand(graph, node))


def _dead(graph: gs.Graph) -> Iterator[Site]:
    live = live_nodes(graph)
    for node in list(graph.nodes):
        if id(node) not in live:
            yield Site(node, "no output depends on it", _removing(node))


def _removing(node: gs.Node) -> Edit:
    return lambda graph: remove_nodes(graph, [node])
