"""A network as a model file holds it: a graph with a header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.ir.header import Header


class Network(gs.Graph):
    """A graph that was, or can be, a model file.

    Whatever works on graphs works on it too. Bodies of If and Loop are plain graphs: they have no
    header of their own.
    """

    header: Header = Header()
    """What the file says beyond nodes and tensors; empty for a network made by hand."""

    @staticmethod
    def of(graph: gs.Graph) -> Network:
        """The same graph as a network: one made by hand becomes one, its header empty.

        It stays the same object, because passes change graphs in place, and what they note in the
        header belongs to the graph that the caller holds.
        """
        if not isinstance(graph, Network):
            graph.__class__ = Network
        assert isinstance(graph, Network)
        return graph

    def copy(self, tensor_map: Any = None) -> Network:
        """A copy with its header; constant arrays are shared (passes never edit them in place)."""
        copied = Network.of(super().copy(tensor_map))
        copied.header = self.header
        return copied

    def judge_at(self, sizes: Mapping[str, Sequence[int]]) -> None:
        """Have a network of dynamic inputs counted, timed and checked at these sizes."""
        fixed = {name: tuple(size) for name, size in sizes.items()}
        self.header = replace(self.header, sizes=fixed)
