"""The part of a network behind a layer, run with other weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.fitting.layerwise_runner import (
    extract_subgraph,
    make_session,
)
from graphopt.fitting.reconstruct_report import Floats
from graphopt.ir.arrays import Array
from graphopt.ir.edit import constant
from graphopt.ir.graph import label


class FittedWeights(NamedTuple):
    """A layer's weight (O,I,kh,kw) and bias (O,)."""

    weight: Floats
    bias: Floats


class NetworkTail:
    """A network from one convolution on, whose weights are inputs: nothing before it runs again.

    Args:
        graph: the network.
        node: the convolution.
        values: what is known before it runs, for each image.
        outputs: of the network; those that are made before the convolution are left out.
    """

    def __init__(
        self,
        graph: gs.Graph,
        node: gs.Node,
        values: Sequence[Mapping[str, Array]],
        outputs: Sequence[str],
    ) -> None:
        start = next(i for i, other in enumerate(graph.nodes) if other is node)
        made = {tensor.name for later in graph.nodes[start:] for tensor in later.outputs}
        part = extract_subgraph(
            graph,
            nodes=slice(start, None),
            inputs=sorted(values[0]),
            outputs=[name for name in outputs if name in made],
        )
        convolution = part.nodes[0]
        weights = [
            gs.Variable(f"{label(node)}/{role}", np.dtype(np.float32))
            for role in FittedWeights._fields
        ]
        convolution.inputs = [convolution.inputs[0], *weights]
        part.inputs += weights
        self._names = [tensor.name for tensor in weights]
        self._values = values
        self._engine = make_session(part)

    def run(self, weights: FittedWeights) -> Iterator[Mapping[str, Array]]:
        """The outputs for each image."""
        given = dict(zip(self._names, weights, strict=True))
        for values in self._values:
            known = {name: values[name] for name in self._engine.inputs if name in values}
            yield self._engine.run(known | given)


def with_weights(graph: gs.Graph, weights: Mapping[str, FittedWeights]) -> gs.Graph:
    """A copy with other weights in some convolutions, by label."""
    changed = graph.copy()
    for node in changed.nodes:
        if label(node) in weights:
            weight, bias = (
                constant(changed, f"{node.inputs[1].name}.{role}", values)
                for role, values in weights[label(node)]._asdict().items()
            )
            node.inputs = [node.inputs[0], weight, bias]
    return changed
