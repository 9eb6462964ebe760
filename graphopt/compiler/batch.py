"""Networks for several pictures at once, as networks for one: bundles process one at a time."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.errors import GraphoptError, Unsupported
from graphopt.ir.arrays import has_colours
from graphopt.ir.edit import constant
from graphopt.ir.graph import constant_of, input_of, is_standard, label, static_shape
from graphopt.ir.input_shapes import fix_sizes
from graphopt.ir.network import Network
from graphopt.ir.onnx_io import serialised
from graphopt.ir.shape_inference import refresh_shapes
from graphopt.optimizer.verify import EXACT_LIMIT, EXACT_LIMITS
from graphopt.passes.canonicalize import Canonicalize
from graphopt.runtime.differences import difference
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.sample_inputs import sample_feeds

_SHAPES = {"Reshape": 1, "Expand": 1, "Resize": 3}
"""Operators that are given a shape, and the input that holds it."""


def for_one_picture(graph: Network) -> tuple[Network, str]:
    """A network whose batch is 1, and what was done about that, a sentence; "" for nothing.

    A batch that alone is dynamic is fixed. One that is fixed at N is rewritten: in the inputs'
    shapes, and in the constants that nodes are given shapes by. The result must give what the
    original gives for the first of N pictures.

    Raises:
        Unsupported: it does not.
    """
    free = {
        t.name: (1, *t.shape[1:])
        for t in graph.inputs
        if t.shape and not isinstance(t.shape[0], int)
        if all(isinstance(extent, int) for extent in t.shape[1:])
    }
    if free:
        single = graph.copy()
        fix_sizes(single, free)
        return single, f"the batch of {', '.join(free)} is dynamic: fixed at 1"
    batch = _batch_of(graph)
    if batch == 1:
        return graph, ""
    single = _rewritten(graph, batch)
    reason = _departs(graph, single, batch)
    if reason:
        raise Unsupported(
            f"the network takes {batch} pictures at once, and cannot be made to take one: {reason}",
            hint="export it with a batch of 1, or a dynamic one",
        )
    return single, f"the network takes {batch} pictures at once: rewritten to take one"


def _batch_of(graph: Network) -> int:
    """How many pictures the network takes at once, where that is fixed."""
    shapes = [static_shape(tensor) or () for tensor in graph.inputs]
    return max((shape[0] for shape in shapes if has_colours(shape)), default=1)


def _rewritten(graph: Network, batch: int) -> Network:
    single = graph.copy()
    Canonicalize().run(single)  # shapes that are computed become constants
    for tensor in single.inputs:
        if tensor.shape and tensor.shape[0] == batch:
            tensor.shape = [1, *tensor.shape[1:]]
    for node in single.nodes:
        index = _SHAPES.get(node.op) if is_standard(node) else None
        given = None if index is None else input_of(node, index)
        shape = None if given is None else constant_of(given)
        if index is None or shape is None or not shape.size or shape[0] < 1 or shape[0] % batch:
            continue
        divided = np.concatenate([shape[:1] // batch, shape[1:]])
        node.inputs[index] = constant(single, f"{label(node)}.shape", divided)
    for tensor in single.tensors().values():
        if isinstance(tensor, gs.Variable) and tensor.inputs:
            tensor.shape = None
    refresh_shapes(single, outputs=True)
    return single


def _departs(graph: Network, single: Network, batch: int) -> str:
    """Why the network for one picture is not the other one's first part; "" where it is."""
    feeds = sample_feeds(graph, {t.name: t.shape for t in graph.inputs})[0]
    names = {t.name for t in graph.inputs if t.shape[0] == batch}
    first = {name: value[:1] if name in names else value for name, value in feeds.items()}
    try:
        with serialised(graph) as model, serialised(single) as other:
            expected = OnnxRuntimeEngine(model).run(feeds)
            values = OnnxRuntimeEngine(other).run(first)
    except GraphoptError as error:
        return error.message
    for name, value in values.items():
        whole = expected[name]
        limit = EXACT_LIMITS.get(str(whole.dtype), EXACT_LIMIT)
        if not value.ndim or len(whole) != batch * len(value):
            return f"the output {name} is {list(value.shape)} in place of {list(whole.shape)}"
        if not difference(value, whole[: len(value)]) <= limit:
            return f"the output {name} depends on the other pictures"
    return ""
