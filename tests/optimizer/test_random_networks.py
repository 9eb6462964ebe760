"""Exact passes on random networks: outputs stay, names stay, a second run finds nothing."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.engine import OnnxRuntimeEngine
from graphopt.graph import emit, refresh_shapes
from graphopt.model import to_proto
from graphopt.pipeline import PRESETS, parse_pipeline, run_pipeline
from graphopt.verify import difference

CHANNELS = 4


def _conv(graph, x, rng):
    group, pad = int(rng.choice([1, 2, 4])), int(rng.integers(2))
    size = 1 + 2 * pad
    weight = rng.standard_normal((CHANNELS, CHANNELS // group, size, size)).astype(np.float32) / 3
    bias = rng.standard_normal(CHANNELS).astype(np.float32) if rng.random() < 0.5 else None
    return emit(graph, "Conv", x, weight, bias, out="conv", group=group, pads=[pad] * 4)


def _shared_conv(graph, x, rng):
    weights = [t for t in graph.tensors().values() if isinstance(t, gs.Constant)]
    fits = [t for t in weights if t.shape == (CHANNELS, CHANNELS, 3, 3)]
    return emit(graph, "Conv", x, fits[0], out="shared", pads=[1, 1, 1, 1]) if fits else x


def _transposed(graph, x, rng):
    weight = rng.standard_normal((CHANNELS, CHANNELS // 2, 3, 3)).astype(np.float32) / 3
    return emit(graph, "ConvTranspose", x, weight, out="up", group=2, pads=[1, 1, 1, 1])


def _norm(graph, x, rng):
    gamma, beta, mean, variance = rng.standard_normal((4, CHANNELS)).astype(np.float32)
    parameters = (gamma, beta, mean, np.abs(variance) + np.float32(0.2))
    return emit(graph, "BatchNormalization", x, *parameters, out="norm")


def _affine(graph, x, rng):
    shape = [(), (1,), (CHANNELS, 1, 1), (1, CHANNELS, 1, 1), (8,), (8, 1)][rng.integers(6)]
    values = np.asarray(rng.choice([0.0, 1.0, -2.0, 0.5]) + np.zeros(shape), np.float32)
    pair = (x, values) if rng.random() < 0.5 else (values, x)
    return emit(graph, str(rng.choice(["Mul", "Add", "Sub"])), *pair, out="affine")


def _unary(graph, x, rng):
    op = str(rng.choice(["Relu", "Sigmoid", "Identity", "Dropout", "Neg", "Abs"]))
    return emit(graph, op, x, out=op.lower())


def _clip(graph, x, rng):
    return emit(graph, "Clip", x, float(rng.choice([-1, 0, 1])), 6.0, out="clip")


def _transposes(graph, x, rng):
    first = emit(graph, "Transpose", x, out="turned", perm=[0, 2, 3, 1])
    return emit(graph, "Transpose", first, out="back", perm=[0, 3, 1, 2])


def _reshapes(graph, x, rng):
    flat = emit(graph, "Reshape", x, np.array([1, -1]), out="flat")
    return emit(graph, "Reshape", flat, np.array([1, CHANNELS, 8, 8]), out="folded")


def _pad(graph, x, rng):
    return emit(graph, "Pad", x, np.zeros(8, np.int64), out="padded")


def _twice(graph, x, rng):
    return emit(
        graph, "Add", emit(graph, "Relu", x, out="a"), emit(graph, "Relu", x, out="b"), out="sum"
    )


def _swish(graph, x, rng):
    return emit(graph, "Mul", x, emit(graph, "Sigmoid", x, out="gate"), out="swish")


LINEAR = [_conv, _norm, _affine, _shared_conv, _transposed]
OTHER = [_unary, _clip, _transposes, _reshapes, _pad, _twice, _swish]


@st.composite
def networks(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = gs.Variable("x", np.dtype(np.float32), [1, CHANNELS, 8, 8])
    graph = gs.Graph(inputs=[x], opset=17, ir_version=8)
    made = [x]
    for _ in range(draw(st.integers(1, 16))):
        # Mostly a chain of convolutions and what stands between them, sometimes a branch.
        kinds = LINEAR if rng.random() < 0.6 else OTHER
        source = made[-1] if rng.random() < 0.85 else made[rng.integers(len(made))]
        made.append(kinds[rng.integers(len(kinds))](graph, source, rng))
    # What nobody reads is an output, mostly; so is now and then what somebody does.
    chances = [0.1 if tensor.outputs else 0.8 for tensor in made]
    chosen = [t for t, chance in zip(made, chances, strict=True) if rng.random() < chance]
    graph.outputs = list({t.name: t for t in chosen if t is not x}.values())
    graph.outputs = graph.outputs or [emit(graph, "Neg", made[-1], out="y")]
    for tensor in graph.outputs:
        tensor.shape = [1, CHANNELS, 8, 8]
    refresh_shapes(graph)
    return graph


def _values(graph):
    x = 2 * np.random.default_rng(1).standard_normal((1, CHANNELS, 8, 8)).astype(np.float32)
    return OnnxRuntimeEngine(to_proto(graph).SerializeToString(), threads=1).run({"x": x})


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_exact_passes_change_no_output(graph):
    result = run_pipeline(graph, parse_pipeline(PRESETS["exact"]))
    before, after = _values(graph), _values(result.graph)
    assert list(before) == list(after)
    assert all(difference(after[name], before[name]) < 1e-4 for name in before)
    again = run_pipeline(result.graph, parse_pipeline(PRESETS["exact"]), verify="off")
    assert [step.changes for step in again.steps] == [(), (), ()]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_inner_tensors_keep_their_values_or_lose_their_names(graph):
    """The rule that blame and layer-wise work rest on: same name, same value."""
    result = run_pipeline(graph, parse_pipeline(PRESETS["exact"]), verify="off")
    ours, theirs = result.graph.tensors(), graph.tensors()
    shared = [
        name
        for name, tensor in ours.items()
        if isinstance(tensor, gs.Variable)
        and tensor.inputs
        and isinstance(theirs.get(name), gs.Variable)
    ]
    assert shared
    for one in (result.graph, graph):
        one.outputs = [one.tensors()[name] for name in shared]
    after, before = _values(result.graph), _values(graph)
    assert all(difference(after[name], before[name]) < 1e-4 for name in shared)
