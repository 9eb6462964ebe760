"""Where the tensors of an ONNX graph come from, asked about its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from graphopt.ir.operators import OPERATORS, Kind, standard_operators
from graphopt.pose.map_slices import Layout


class Graph:
    """Where the tensors of an ONNX graph come from.

    Args:
        proto: the ModelProto.
    """

    def __init__(self, proto: Any) -> None:
        self._makers = {name: node for node in proto.graph.node for name in node.output if name}
        self._weights = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
        for node in proto.graph.node:  # weights may be whole numbers
            if node.op_type in _STEPS and node.input[0] in self._weights:
                self._weights[node.output[0]] = self._weights[node.input[0]]

    def layout(self, tensor: str) -> Layout | None:
        """How a tensor with maps lies in memory, where operators tell."""
        found: Layout | None = None
        moves: list[tuple[int, ...]] = []
        for node in self._back(tensor):
            if node.op_type == "Transpose":
                moves.append(tuple(next((a.ints for a in node.attribute if a.name == "perm"), ())))
            elif node.op_type in _CHANNELS_FIRST:
                found = "nchw"
        for move in reversed(moves):
            found = _TRANSPOSED.get((found, move))
        return found

    def joints(self, tensor: str) -> set[int]:
        """The channels at which a tensor that was joined from others has seams."""
        *_, last = (None, *self._back(tensor, through=(*_KEEPS, *_RESIZES, "Transpose")))
        if last is None or last.op_type != "Concat":
            return set()
        seams, place = set(), 0
        for name in last.input:
            count = self._channels(name)
            if not count:
                break
            place += count
            seams.add(place)
        return seams

    def comes_from(self, tensor: str, other: str) -> bool:
        """Whether a tensor is computed from another."""
        pending, seen = [tensor], set()
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            pending += self._makers[name].input if name in self._makers else ()
        return other in seen - {tensor}

    def is_join_of(self, tensor: str, parts: Iterable[str]) -> bool:
        """Whether a tensor holds nothing but others, joined."""
        maker = self._makers.get(self._unquantised(tensor))
        if maker is None or maker.op_type != "Concat":
            return False
        return set(map(self._unquantised, parts)) == set(map(self._unquantised, maker.input))

    def _unquantised(self, tensor: str) -> str:
        """The tensor before it was quantised and restored."""
        while (maker := self._makers.get(tensor)) is not None and maker.op_type in _STEPS:
            tensor = maker.input[0]
        return tensor

    def _channels(self, tensor: str) -> int | None:
        """Filters of the convolution that a tensor comes from."""
        *_, last = (None, *self._back(tensor, through=(*_KEEPS, "BatchNormalization")))
        weight = self._weights.get(last.input[1]) if last is not None and last.input[1:] else None
        return weight[0] if weight and last.op_type == "Conv" else None

    def _back(self, tensor: str, through: Sequence[str] = ()) -> Iterator[Any]:
        """The nodes that a tensor comes from, the last one first, as far as they keep its shape."""
        allowed = through or (*_KEEPS, *_RESIZES, "Concat", "Transpose")
        while tensor in self._makers:
            node = self._makers[tensor]
            yield node
            if node.op_type not in allowed:
                return
            tensor = next((i for i in node.input if i not in self._weights), "")


_STEPS = ("QuantizeLinear", "DequantizeLinear")
"""Operators that round to steps, and restore from them."""


_KEEPS = (*_STEPS, *(operator.name for operator in OPERATORS.values() if operator.elementwise))
"""Operators that work value by value."""


_RESIZES = standard_operators(Kind.RESAMPLING)


_CHANNELS_FIRST = (
    *standard_operators(Kind.CONVOLUTION, Kind.POOLING),
    "BatchNormalization",
)
"""Operators whose results have channels first."""


_TRANSPOSED: Mapping[tuple[Layout | None, tuple[int, ...]], Layout] = {
    ("nchw", (0, 2, 3, 1)): "nhwc",
    ("nhwc", (0, 3, 1, 2)): "nchw",
}
