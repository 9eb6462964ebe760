"""How large the tensors of a network become: what half precision must be able to hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.arrays import Array
from graphopt.ir.onnx_io import serialised
from graphopt.runtime.engine import OnnxRuntimeEngine


def largest_values(graph: gs.Graph, feeds: Iterable[Mapping[str, Array]]) -> dict[str, float]:
    """The largest absolute value in every float32 tensor that a node makes.

    The network itself is made to find them, so that no tensor outlives its last reader.

    Args:
        graph: the network.
        feeds: its inputs, for each run.

    Returns:
        Tensor name to value; infinity where a value was infinite or not a number.

    Raises:
        InputError: onnxruntime cannot run the network.
    """
    probed = graph.copy()
    names = []
    for node in list(probed.nodes):
        for tensor in node.outputs:
            if tensor.name and tensor.dtype == np.float32:
                magnitude = gs.Variable(f"{tensor.name}/magnitude", np.float32)
                largest = gs.Variable(f"{tensor.name}/largest", np.float32, ())
                probed.nodes += [
                    gs.Node("Abs", inputs=[tensor], outputs=[magnitude]),
                    gs.Node("ReduceMax", None, {"keepdims": 0}, [magnitude], [largest]),
                ]
                names.append(tensor.name)
                probed.outputs.append(largest)
    with serialised(probed) as model:
        engine = OnnxRuntimeEngine(model)
    found = dict.fromkeys(names, 0.0)
    for feed in feeds:
        values = engine.run(feed)
        for name in names:
            value = float(values[f"{name}/largest"])
            found[name] = max(found[name], value) if np.isfinite(value) else np.inf
    return found
