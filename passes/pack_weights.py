"""`pack-weights`: weights in graphopt's compact format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.block_structure import BLOCKS, Block
from graphopt.ir.graph import constant_of, is_graph_output, is_standard, label, stored
from graphopt.ir.identity import IdentitySet
from graphopt.ir.packing import OLDEST_OPSET, Packed, insert, pack
from graphopt.optimizer.pass_contract import Change, Numerics, Pass, Skip, option

SMALL = 1024
"""Weights of fewer numbers stay as they are."""
GAIN = 0.95
"""A weight is packed if its bytes become this part or less."""


class Weight(NamedTuple):
    """A weight that becomes smaller."""

    node: gs.Node
    """A convolution that reads it."""
    tensor: gs.Constant
    packed: Packed


@dataclass(frozen=True)
class PackWeights(Pass[Weight]):
    """Store the weights of convolutions as the blocks that are not zero.

    Rewrite:
        A constant weight -> the values of its kept blocks and how far they are apart -> a node
        `graphopt.ExpandBlocks` that makes the weight of them, under its old name. That is a
        model-local function of standard operators, which onnxruntime computes once, when it loads
        the file; its doc string has the format byte by byte. The block is one of those of
        `prune-blocks`, or all of a kernel position, whichever takes fewest bytes. `graphopt unpack`
        gives the dense file back; every graphopt command reads both. Weights that are quantised to
        int8 stay int8, in front of their DequantizeLinear.

    Numerics:
        values=float32 is exact. values=float16 is approximate: it rounds weights by up to 5e-4 of
        themselves.

    Why:
        Zeros take space in an ONNX file like other numbers. Pruned to 1 / 2.15 of its size and in
        half precision, a network takes about a quarter of its bytes.

    When it skips:
        No block is zero (values=float32). A weight is larger than float16 has numbers for. Weights
        of less than 1024 numbers, and those that are outputs, stay as they are. Opsets below 13
        lack an operator.

    Examples:
        prune-blocks, pack-weights
            a = Conv(x, first) b = Conv(a, inner) y = Conv(b, last)
            ->  Conv ExpandBlocks Conv Conv
    """

    name: ClassVar[str] = "pack-weights"

    values: Literal["float32", "float16"] = option("float32", "how kept values are stored")

    @property
    def numerics(self) -> Numerics:
        return Numerics.EXACT if self.values == "float32" else Numerics.APPROXIMATE

    def match(self, graph: gs.Graph) -> Iterator[Weight | Skip]:
        seen: IdentitySet[gs.Tensor] = IdentitySet()
        for node in list(graph.nodes):
            if not is_standard(node, "Conv", "ConvTranspose"):
                continue
            tensor = stored(node.inputs[1])
            weight = constant_of(tensor)
            if (
                not isinstance(tensor, gs.Constant)
                or weight is None
                or tensor in seen
                or is_graph_output(graph, tensor)
            ):
                continue
            seen.add(tensor)
            whole = weight.dtype == np.int8
            if not (whole or weight.dtype == np.float32):
                continue
            if weight.ndim != 4 or weight.size < SMALL:
                continue
            if graph.opset < OLDEST_OPSET:
                reason = f"opset {graph.opset} is below {OLDEST_OPSET}, which the format needs"
                yield Skip(label(node), reason)
                continue
            numbers = np.asarray(weight)
            dtype = np.int8 if whole else np.dtype(self.values).type
            if not whole and abs(numbers).max() > np.finfo(self.values).max:
                yield Skip(label(node), f"a weight of {abs(weight).max():.0e} is no {self.values}")
                continue
            blocks = (*BLOCKS.values(), Block(*weight.shape[:2]))
            packed = min((pack(numbers, b, dtype) for b in blocks), key=lambda p: p.nbytes)
            if packed.nbytes > GAIN * weight.nbytes:
                yield Skip(label(node), "hardly any block of its weight is zero")
                continue
            yield Weight(node, tensor, packed)

    def rewrite(self, graph: gs.Graph, site: Weight) -> Change:
        node, tensor, packed = site
        before = tensor.values.nbytes
        insert(graph, tensor, packed)
        filters, channels = packed.values.shape[1:]
        return Change(
            label(node),
            f"{len(packed.values)} blocks of {filters} x {channels}: "
            f"{packed.nbytes / before:.0%} of its bytes",
        )
