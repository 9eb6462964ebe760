"""Sizes of inputs: as users write them, and put into a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_graphsurgeon as gs

from graphopt.errors import UsageError
from graphopt.ir.identity import IdentitySet
from graphopt.ir.shape_inference import infer_shapes, refresh_shapes


def fix_sizes(graph: gs.Graph, input_shapes: Mapping[str, Sequence[int]]) -> None:
    """Fix inputs at sizes, and infer every tensor's shape anew.

    Args:
        graph: the graph, its nodes in order.
        input_shapes: the sizes, by name; the name "" means the only input.

    Raises:
        InputError: no such input, or shapes that do not fit the model.
    """
    if input_shapes:
        _fix_inputs(graph, input_shapes)
    refresh_shapes(graph)


def _fix_inputs(graph: gs.Graph, input_shapes: Mapping[str, Sequence[int]]) -> None:
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    known = ", ".join(f"{t.name} {_shape_text(t.shape)}" for t in graph.inputs)
    for given, shape in input_shapes.items():
        name = given
        if not given and len(inputs) == 1:
            (name,) = inputs
        if name not in inputs:
            raise UsageError(
                f"the model has no input {name!r}" if name else "the model has several inputs",
                hint=f"its inputs are: {known}; write NAME:1,3,368,656",
            )
        declared = inputs[name].shape
        text = _shape_text(shape)
        if declared is not None and len(declared) != len(shape):
            raise UsageError(
                f"input {name} has {len(declared)} dimensions, but {text} has {len(shape)}",
                hint=f"the model's inputs are: {known}",
            )
        for want, dim in zip(shape, declared or shape, strict=True):
            if isinstance(dim, int) and dim != want:
                raise UsageError(
                    f"input {name} is fixed at {_shape_text(declared)}; it cannot be {text}",
                    hint="export the model with dynamic axes, or keep the fixed size",
                )
        if declared is None or list(declared) != list(shape):
            _forget_shapes(graph)
        inputs[name].shape = list(shape)
    known_shapes = infer_shapes(graph, strict=True)
    for tensor in graph.outputs:
        _, inferred = known_shapes.get(tensor.name, (None, None))
        if inferred is not None and isinstance(tensor, gs.Variable):
            tensor.shape = list(inferred)


def _forget_shapes(graph: gs.Graph) -> None:
    """What the file says of inner tensors holds at the size that it was exported at."""
    edges = IdentitySet([*graph.inputs, *graph.outputs])
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and tensor not in edges:
            tensor.shape = None


def _shape_text(shape: Sequence[Any] | None) -> str:
    return "of any shape" if shape is None else "x".join(str(dim or "?") for dim in shape)


def parse_input_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`["data:1,3,368,656"]` to `{"data": (1, 3, 368, 656)}`; without a name the key is "".

    Raises:
        InputError: when a text is not of that form.
    """
    shapes = {}
    for text in texts:
        name, _, dims = text.rpartition(":")
        try:
            shape = tuple(int(dim) for dim in dims.replace("x", ",").split(","))
        except ValueError:
            shape = ()
        if not shape or min(shape) < 1:
            raise UsageError(f"{text!r} is not an input shape", hint="write NAME:1,3,368,656")
        shapes[name] = shape
    return shapes


def format_input_shapes(shapes: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The texts that `parse_input_shapes` reads as these shapes."""
    return tuple(f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items())
