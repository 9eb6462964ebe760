"""Networks in eight bits as ONNX: QuantizeLinear and DequantizeLinear around float operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.fitting.quantization.grids import Grid, LayerWeights
from graphopt.fitting.quantization.placement import (
    Placement,
    ceiling_of,
    folded_activation,
    readers_of,
)
from graphopt.ir.arrays import Array
from graphopt.ir.edit import constant, emit, remove_nodes, sort_nodes
from graphopt.ir.graph import label
from graphopt.ir.identity import IdentitySet

LARGEST_SUM = 2**31 - 1
"""Of 32 bits."""
ROUNDING = 1e-6
"""Relative difference of a Clip's limit and a grid's end that is none."""


def store_all(graph: gs.Graph, placement: Placement, grids: Mapping[str, Grid]) -> None:
    """Round all tensors of a placement to their grids."""
    tensors = graph.tensors()
    for name in placement.grids:
        store(graph, tensors[name], grids[name], _only(placement, name))
    sort_nodes(graph)


def _only(placement: Placement, name: str) -> list[gs.Node] | None:
    """What reads a tensor rounded: the layers, or all."""
    if placement.joint:
        return None
    return [node for node in placement.layers if node.inputs[0].name == name]


def store(
    graph: gs.Graph, tensor: gs.Tensor, grid: Grid, only: Sequence[gs.Node] | None = None
) -> gs.Tensor:
    """Round a tensor to a grid, and return what its readers read then.

    A Relu or Clip whose work the grid does goes; then its name stays with the rounded tensor.

    Args:
        graph: the network.
        tensor: the tensor.
        grid: its numbers.
        only: what reads it rounded; all that read it if None.
    """
    every = list(readers_of(tensor))
    chosen = IdentitySet([node for node, _ in every] if only is None else only)
    readers = [(node, index) for node, index in every if node in chosen]
    for node, _ in every:
        if node.op == "QuantizeLinear":
            rounded: gs.Tensor = node.outputs[0].outputs[0].outputs[0]
            for reader, index in readers if only is not None else ():
                reader.inputs[index] = rounded
            return rounded
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is not None and maker.op == "DequantizeLinear":
        return tensor
    activation = folded_activation(graph, tensor) if len(readers) == len(every) else None
    limit = None if activation is None else ceiling_of(activation)
    done = grid.zero == grid.lowest and limit is not None and grid.high <= limit * (1 + ROUNDING)
    source: gs.Tensor = tensor
    out: gs.Tensor | str = f"{tensor.name}.dequantized"
    if activation is not None and done:
        source, out = activation.inputs[0], tensor
        remove_nodes(graph, [activation])
    steps = _steps(graph, tensor.name, np.asarray(grid.scale, np.float32), grid.zero, grid.dtype)
    quantized = emit(graph, "QuantizeLinear", source, *steps, out=f"{tensor.name}.quantized")
    quantized.dtype = grid.dtype
    result = _dequantized(graph, quantized, steps, out=out)
    if result is not tensor:
        for node, index in readers:
            node.inputs[index] = result
    return result


def write_layer(
    graph: gs.Graph, node: gs.Node, weights: LayerWeights, grid: Grid, *, joint: bool = True
) -> None:
    """Have a layer read eight bits, on some grid, and hold its weights so.

    `joint`: whether all else that reads the same reads it rounded.
    """
    store(graph, node.inputs[0], grid, None if joint else [node])
    each, name = len(weights.scales) > 1, label(node)
    scales = weights.scales if each else weights.scales.reshape(())
    stored = constant(graph, f"{name}.weight", weights.whole)
    steps = _steps(graph, stored.name, scales, 0, stored.dtype)
    out = f"{stored.name}.dequantized"
    node.inputs[1] = _dequantized(
        graph, stored, steps, out=out, axis=weights.axis if each else None
    )
    if weights.bias is None:
        return
    fine = np.asarray(scales * np.float32(grid.scale), np.float32)
    numbers = np.clip(np.rint(weights.bias / fine), -LARGEST_SUM, LARGEST_SUM)
    stored = constant(graph, f"{name}.bias", numbers.astype(np.int32))
    steps = _steps(graph, stored.name, fine, 0, stored.dtype)
    out = f"{stored.name}.dequantized"
    _put_bias(node, _dequantized(graph, stored, steps, out=out, axis=0 if each else None))


def put_weights(graph: gs.Graph, node: gs.Node, weight: Array, bias: Array | None) -> None:
    """Give a layer other weights of single precision."""
    node.inputs[1] = constant(graph, f"{label(node)}.fitted", np.asarray(weight, np.float32))
    if bias is not None:
        name = f"{label(node)}.fitted_bias"
        _put_bias(node, constant(graph, name, np.asarray(bias, np.float32)))


def _put_bias(node: gs.Node, bias: gs.Tensor) -> None:
    if len(node.inputs) > 2:
        node.inputs[2] = bias
    else:
        node.inputs.append(bias)


Steps: TypeAlias = tuple[gs.Constant, gs.Constant]
"""A scale and a zero point."""


def _steps(graph: gs.Graph, name: str, scale: Array, zero: int, dtype: np.dtype[Any]) -> Steps:
    return (
        constant(graph, f"{name}.scale", scale),
        constant(graph, f"{name}.zero", np.full(scale.shape, zero, dtype)),
    )


def _dequantized(
    graph: gs.Graph,
    whole: gs.Tensor,
    steps: Steps,
    *,
    out: gs.Tensor | str,
    axis: int | None = None,
) -> gs.Tensor:
    """Whole numbers as what they stand for; `axis`: along which they have scales of their own."""
    result = emit(graph, "DequantizeLinear", whole, *steps, out=out)
    result.dtype = np.dtype(np.float32)
    if axis is not None:
        result.inputs[0].attrs["axis"] = axis
    return result
