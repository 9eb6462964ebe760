"""Whether a bundle that computes in bfloat16 is as far from onnxruntime as bfloat16 takes it.

How much rounding moves a network's outputs is a matter of the network and the photo. So the
yardstick is onnxruntime itself, running the network with what convolutions read rounded to
bfloat16. A kernel that is wrong moves outputs by as much as they differ from pixel to pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from graphopt.ir.arrays import Array, Feeds, Floats
from graphopt.ir.onnx_io import serialised
from graphopt.runtime.differences import Agreement, difference
from graphopt.runtime.engine import OnnxRuntimeEngine

LARGEST, SPREAD = 4.0, 2.0
"""How many times the largest difference of the rounded network, and the root of the mean square of
its differences, a bundle's may be: it rounds what it stores, too."""
FLOOR = 1e-2
"""The difference, as a part of an output's range, that is always rounding: a network of one layer
may be moved by next to nothing in one answer, and by a step of 2^-8 in the other."""


def bfloat16_agreement(
    graph: gs.Graph, inputs: Sequence[Sequence[Feeds]], outputs: Sequence[Sequence[Feeds]]
) -> Agreement:
    """Compare outputs with onnxruntime's.

    Args:
        graph: what was compiled.
        inputs: those that belong together share one range.
        outputs: for each input, every output by name.
    """
    with serialised(graph) as model:
        plain = OnnxRuntimeEngine(model)
        proto = onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    with_rounding = rounded_to_bfloat16(proto).SerializeToString()
    rival = OnnxRuntimeEngine(with_rounding, optimize=False)
    worst = noise = 0.0
    excess = None
    for feeds, got in zip(inputs, outputs, strict=True):
        known, moved = ([engine.run(feed) for feed in feeds] for engine in (plain, rival))
        for name in known[0]:
            ours, there, other = (np.stack([run[name] for run in o]) for o in (got, known, moved))
            off, own = difference(ours, there), difference(other, there)
            worst, noise = max(worst, off), max(noise, own)
            spread = float(np.ptp(there)) or 1.0
            fits = _rms(ours, there) <= SPREAD * _rms(other, there) + FLOOR / 4 * spread
            if not (off <= LARGEST * own + FLOOR and fits):
                excess = f"rounding takes onnxruntime's by {own:.1e} alone"
    return Agreement(
        worst,
        noise,
        excess,
        told=f"rounding to bfloat16 moves outputs by up to {worst:.1e} of their range, and by "
        f"{noise:.1e} in onnxruntime",
    )


def _rms(values: Array, expected: Array) -> float:
    apart: Floats = values.astype(np.float64) - expected.astype(np.float64)
    return float(np.sqrt(np.mean(np.square(apart)))) if apart.size else 0.0


SPLIT = np.float32(2**16 + 1)
"""Dekker's: what x * SPLIT - (x * SPLIT - x) leaves of float32's 24 bits are the upper 8."""


def rounded_to_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, the inputs and weights of whose convolutions are rounded; it is changed.

    By arithmetic: Cast knows bfloat16 since opset 13 only.
    """
    split = "graphopt/split"
    model.graph.initializer.append(numpy_helper.from_array(np.array(SPLIT), split))
    nodes: list[onnx.NodeProto] = []
    rounded: set[str] = set()
    for node in model.graph.node:
        for place in (0, 1) if node.op_type == "Conv" else ():
            name = node.input[place]
            result = f"{name}/rounded"
            if name not in rounded:
                larger, rest = f"{name}/larger", f"{name}/rest"
                nodes += [
                    helper.make_node("Mul", [name, split], [larger], name=larger),
                    helper.make_node("Sub", [larger, name], [rest], name=rest),
                    helper.make_node("Sub", [larger, rest], [result], name=result),
                ]
                rounded.add(name)
            node.input[place] = result
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
