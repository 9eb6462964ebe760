"""Layers' fits while a network is reconstructed: kept in a checkpoint, written to it at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.fitting.checkpoint import Checkpoint
from graphopt.fitting.reconstruct_report import FoundSite
from graphopt.ir.arrays import Array
from graphopt.ir.edit import constant


def put_weights(graph: gs.Graph, node: gs.Node, weight: Array, filter_bias: Array) -> None:
    """Write new values into a convolution."""
    name = node.inputs[1].name
    node.inputs[1] = constant(graph, name, weight)
    bias = constant(graph, f"{name}.bias", filter_bias)
    if len(node.inputs) > 2:
        node.inputs[2] = bias
    else:
        node.inputs.append(bias)


class LayerFits:
    """What was found for each layer so far, kept in a checkpoint.

    Raises:
        InputError: the checkpoint cannot be read, or is of another run.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._arrays: dict[str, Any] = checkpoint.load(dict) or {}

    def recall(self, layer: int) -> FoundSite | None:
        """What was found for a layer, by its number."""
        errors = self._arrays.get(f"{layer}.errors")
        if errors is None:
            return None
        before, after = errors.tolist()
        if after >= before:
            return FoundSite(before, after, None)
        weight, bias = (self._arrays[f"{layer}.{part}"] for part in ("weight", "bias"))
        return FoundSite(before, after, (weight, bias))

    def keep(self, layer: int, found: FoundSite) -> None:
        """Store what was found for a layer, and write the file."""
        self._arrays[f"{layer}.errors"] = np.array([found.before, found.after])
        if found.values is not None:
            self._arrays[f"{layer}.weight"], self._arrays[f"{layer}.bias"] = found.values
        self._checkpoint.save(self._arrays)
