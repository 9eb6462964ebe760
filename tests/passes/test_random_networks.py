"""Every pass on random networks: exact ones keep the outputs, all keep what outputs are called.

`GRAPHOPT_THOROUGH=1 pytest tests/passes/test_random_networks.py` looks much further, and
elsewhere each time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from known import values_of
from PIL import Image

from graphopt.analysis.latency.device import load_device
from graphopt.errors import GraphoptError
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.stack import fit_stack
from graphopt.ir.checks import runtime_accepts
from graphopt.ir.edit import emit
from graphopt.ir.graph import static_shape
from graphopt.ir.onnx_io import to_proto
from graphopt.ir.shape_inference import infer_shapes, refresh_shapes
from graphopt.optimizer.pass_contract import Context, Numerics, Pass
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.syntax import PRESETS, parse_pipeline
from graphopt.optimizer.verify import EXACT_LIMIT, EXACT_LIMITS
from graphopt.passes import stack_large_conv, undilate_conv
from graphopt.pose.map_slices import MapSlice
from graphopt.pose.skeleton import load_skeleton
from graphopt.pose.spec import PoseSpec, Preprocess
from graphopt.runtime.differences import difference
from graphopt.runtime.engine import OnnxRuntimeEngine

THOROUGH = bool(os.environ.get("GRAPHOPT_THOROUGH"))
LARGEST = 24
"""Rows, columns and channels beyond which nothing more is added."""


ELSEWHERE = {"distill"}
"""Passes that have no business with random networks: it trains for minutes, and needs PyTorch."""


def examples(count: int) -> settings:
    return settings(
        max_examples=50 * count if THOROUGH else count,
        derandomize=not THOROUGH,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# --- parts of networks: each adds nodes behind a tensor, and gives what they make ---------------


def _normal(x: gs.Tensor, rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.asarray(rng.standard_normal(shape) / math.sqrt(max(math.prod(shape[1:]), 1)), x.dtype)


def _filter(
    graph: gs.Graph,
    x: gs.Tensor,
    rng: np.random.Generator,
    *,
    out: int | None = None,
    kernel: list[int] | None = None,
    **attrs: Any,
) -> gs.Tensor:
    """A convolution that is possible on `x`; what is not given is drawn."""
    channels, *size = x.shape[1:]
    group = attrs.setdefault("group", int(rng.choice([g for g in (1, 2, 4) if channels % g == 0])))
    out = out or group * int(rng.integers(1, 3)) * (2 if group == 1 else 1)
    kernel = kernel or [int(rng.choice([1, 3, 5]))] * 2
    dilations = attrs.get("dilations", [1, 1])
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if "auto_pad" not in attrs and "pads" not in attrs:
        attrs["pads"] = [r // 2 for r in reach] * 2
    room = np.add(size, np.add(*np.split(np.array(attrs.get("pads", [0] * 4)), 2)))
    if (room < reach).any():
        return x
    bias = _normal(x, rng, out) if rng.random() < 0.5 else None
    weight = _normal(x, rng, out, channels // group, *kernel)
    return emit(graph, "Conv", x, weight, bias, out="conv", **attrs)


def _conv(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    kernel = [int(k) for k in rng.choice([1, 2, 3, 5], 2)]
    dilations = [int(d) for d in rng.choice([1, 1, 2, 3], 2)]
    attrs: dict[str, Any] = {
        "strides": [int(s) for s in rng.choice([1, 1, 2], 2)],
        "dilations": dilations,
    }
    if rng.random() < 0.3:
        attrs["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
        attrs["dilations"] = [1, 1]  # onnxruntime refuses both together
    else:
        attrs["pads"] = [int(p) for p in rng.integers(0, 3, 4)]
    return _filter(graph, x, rng, kernel=kernel, **attrs)


def _same_conv(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    return _filter(graph, x, rng)


def _depthwise(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    size, channels = int(rng.choice([3, 5, 7])), x.shape[1]
    return _filter(graph, x, rng, out=channels, kernel=[size] * 2, group=channels)


def _large(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    return _filter(graph, x, rng, kernel=[int(rng.choice([5, 7]))] * 2)


def _dilated_run(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    for _ in range(rng.integers(1, 4)):
        made = _filter(graph, x, rng, out=4, kernel=[3, 3], group=1, dilations=[2, 2])
        x = _settled(graph, emit(graph, "Relu", made, out="relu"))
    return x


def _shared_conv(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    shapes = [(o, x.shape[1], 3, 3) for o in range(1, LARGEST)]
    weights = [t for t in graph.tensors().values() if isinstance(t, gs.Constant)]
    fits = [t for t in weights if tuple(t.shape) in shapes and t.dtype == x.dtype]
    return emit(graph, "Conv", x, fits[0], out="shared", pads=[1] * 4) if fits else x


def _transposed(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    weight = _normal(x, rng, x.shape[1], 2, 3, 3)
    stride = 2 if max(x.shape[2:]) * 2 <= LARGEST else 1
    return emit(graph, "ConvTranspose", x, weight, out="up", pads=[1] * 4, strides=[stride] * 2)


def _norm(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    gamma, beta, mean, variance = rng.standard_normal((4, x.shape[1])).astype(x.dtype)
    parameters = (gamma, beta, mean, np.abs(variance) + x.dtype.type(0.3))
    return emit(graph, "BatchNormalization", x, *parameters, out="norm")


def _affine(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    channels, _, width = x.shape[1:]
    shapes = [(), (1,), (channels, 1, 1), (1, channels, 1, 1), (width,), (1, 1, 1, 1, 1)]
    shape = shapes[rng.integers(6 if rng.random() < 0.1 else 5)]
    values = np.asarray(rng.choice([0.0, 1.0, -2.0, 0.5]) + np.zeros(shape), x.dtype)
    made = emit(
        graph,
        str(rng.choice(["Mul", "Add", "Sub"])),
        *((x, values) if rng.random() < 0.5 else (values, x)),
        out="affine",
    )
    return made if len(shape) < 5 else emit(graph, "Reshape", made, np.array(x.shape), out="four")


UNARY = ["Relu", "Sigmoid", "Identity", "Dropout", "Neg", "Abs", "Tanh", "Elu", "LeakyRelu"]
UNARY += ["HardSigmoid", "Softplus", "HardSwish"]


def _unary(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    ops = [
        "Relu",
        "Sigmoid",
        "Identity",
        "Dropout",
        "Neg",
        "Abs",
        "Tanh",
        "Elu",
        "LeakyRelu",
        "HardSigmoid",
        "Softplus",
    ]
    op = str(rng.choice([*ops, *(["HardSwish"] if graph.opset >= 14 else [])]))
    return emit(graph, op, x, out=op.lower())


def _clip(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    low, high = [(0.0, 6.0), (-1.0, 6.0), (1.0, None), (None, 3.0)][rng.integers(4)]
    return emit(graph, "Clip", x, low, high, out="clip")


def _prelu(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    return emit(graph, "PRelu", x, _normal(x, rng, x.shape[1], 1, 1), out="prelu")


def _swish(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    slope = emit(graph, "Mul", x, 1.5, out="slope") if rng.random() < 0.3 else x
    pair = [x, emit(graph, "Sigmoid", slope, out="gate")]
    made = emit(graph, "Mul", *(pair if rng.random() < 0.5 else pair[::-1]), out="swish")
    return emit(graph, "Mul", made, 1.25, out="eswish") if rng.random() < 0.3 else made


def _squeeze_and_excite(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    pooled = _settled(graph, emit(graph, "GlobalAveragePool", x, out="pooled"))
    inner = _swish(graph, _filter(graph, pooled, rng, out=2, kernel=[1, 1], group=1), rng)
    outer = _filter(graph, _settled(graph, inner), rng, out=x.shape[1], kernel=[1, 1], group=1)
    return emit(graph, "Mul", x, emit(graph, "Sigmoid", outer, out="gate"), out="excited")


def _pool(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    op, size = str(rng.choice(["MaxPool", "AveragePool"])), int(rng.choice([1, 2, 3]))
    attrs: dict[str, Any] = {"kernel_shape": [size] * 2, "strides": [int(rng.choice([1, 2]))] * 2}
    if rng.random() < 0.4:
        attrs["pads"] = [size // 2] * 4
    return emit(graph, op, x, out="pool", **attrs) if min(x.shape[2:]) >= size else x


def _resize(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    scale = 2.0 if max(x.shape[2:]) * 2 <= LARGEST and rng.random() < 0.6 else 1.0
    scales = np.array([1, 1, scale, scale], np.float32)
    mode = str(rng.choice(["nearest", "linear"]))
    return emit(graph, "Resize", x, None, scales, out="resized", mode=mode)


def _join(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    """With another tensor of the same size, if there is one."""
    others = [
        t
        for t in graph.tensors().values()
        if isinstance(t, gs.Variable) and t.shape and t.dtype == x.dtype and len(t.shape) == 4
    ]
    if rng.random() < 0.6:
        fits = [t for t in others if list(t.shape) == list(x.shape)]
        other = fits[rng.integers(len(fits))]
        return emit(graph, str(rng.choice(["Add", "Mul", "Max"])), x, other, out="sum")
    fits = [t for t in others if list(t.shape[2:]) == list(x.shape[2:])]
    parts = [x, *(fits[i] for i in rng.integers(len(fits), size=rng.integers(0, 3)))]
    return emit(graph, "Concat", *parts, out="joined", axis=1)


def _cascade(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    """Refinement stages, as pose networks have them."""
    maps = [_filter(graph, x, rng, out=n, kernel=[1, 1], group=1) for n in (2, 3)]
    for _ in range(rng.integers(1, 4)):
        joined = _settled(graph, emit(graph, "Concat", x, *maps, out="joined", axis=1))
        inner = _filter(graph, joined, rng, out=4, kernel=[3, 3], group=1)
        inner = _settled(graph, emit(graph, "Relu", inner, out="inner"))
        maps = [_filter(graph, inner, rng, out=n, kernel=[1, 1], group=1) for n in (2, 3)]
    return emit(graph, "Concat", *maps, out="maps", axis=1)


def _transposes(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    first = emit(graph, "Transpose", x, out="turned", perm=[0, 2, 3, 1])
    second = emit(graph, "Relu", first, out="between") if rng.random() < 0.3 else first
    return emit(graph, "Transpose", second, out="back", perm=[0, 3, 1, 2])


def _reshapes(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    flat = emit(graph, "Reshape", x, np.array([1, -1]), out="flat")
    if rng.random() < 0.5:
        return emit(graph, "Reshape", flat, np.array(x.shape), out="folded")
    # As exporters of dynamic networks write it: every extent from the tensor's own shape.
    extents = emit(graph, "Shape", x, out="extents")
    extents.dtype = np.dtype(np.int64)
    return emit(graph, "Reshape", flat, extents, out="folded")


def _squeezes(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    axes = np.array([0])
    operands = (axes,) if graph.opset >= 13 else ()
    attrs: dict[str, Any] = {} if operands else {"axes": [0]}
    three = emit(graph, "Squeeze", x, *operands, out="three", **attrs)
    return emit(graph, "Unsqueeze", three, *operands, out="four", **attrs)


def _pad(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    amounts = np.zeros(8, np.int64)
    mode, value = [("constant", None), ("constant", 0.0), ("constant", 1.0), ("reflect", None)][
        rng.integers(4)
    ]
    if rng.random() < 0.7 and min(x.shape[2:]) > 1:
        amounts[[2, 3, 6, 7]] = rng.integers(0, 2, 4)
    return emit(graph, "Pad", x, amounts, value, out="padded", mode=mode)


def _slice(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    start = int(rng.integers(0, 2)) if x.shape[3] > 2 else 0
    ends = np.array([int(rng.choice([np.iinfo(np.int64).max, x.shape[3]]))])
    return emit(graph, "Slice", x, np.array([start]), ends, np.array([3]), out="slice")


def _split(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    if x.shape[1] % 2:
        return x
    halves = [gs.Variable(f"half{len(graph.nodes)}_{i}", x.dtype) for i in range(2)]
    attrs = {"axis": 1} | ({"num_outputs": 2} if graph.opset >= 18 else {})
    graph.nodes.append(gs.Node("Split", halves[0].name, attrs, [x], halves))
    return emit(graph, "Concat", *halves[:: rng.choice([1, -1])], out="swapped", axis=1)


def _twice(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    twins = [emit(graph, "Relu", x, out=name) for name in "ab"]
    return emit(graph, "Add", *twins, out="sum")


def _casts(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    to = int(rng.choice([onnx.TensorProto.FLOAT, onnx.helper.np_dtype_to_tensor_dtype(x.dtype)]))
    there = emit(graph, "Cast", x, out="cast", to=to)
    there.dtype = onnx.helper.tensor_dtype_to_np_dtype(to)
    back = emit(graph, "Cast", there, out="back", to=onnx.helper.np_dtype_to_tensor_dtype(x.dtype))
    back.dtype = x.dtype
    return back


def _constants(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    values = gs.Constant("", _normal(x, rng, x.shape[1], 1, 1))
    given = emit(graph, "Constant", out="given", value=values)
    given.dtype = x.dtype
    return emit(graph, "Add", x, emit(graph, "Neg", given, out="minus"), out="moved")


def _either(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    """Branches that read what they are not given."""
    total = emit(graph, "ReduceSum", x, out="total", keepdims=0)
    positive = emit(graph, "Greater", total, 0.0, out="positive")
    positive.dtype = np.dtype(bool)

    def branch(op: str) -> gs.Graph:
        result = gs.Variable(f"{positive.name}.{op}", x.dtype)
        return gs.Graph(nodes=[gs.Node(op, "", {}, [x], [result])], outputs=[result])

    attrs: dict[str, Any] = {"then_branch": branch("Relu"), "else_branch": branch("Neg")}
    made = emit(graph, "If", positive, out="either", **attrs)
    made.dtype = x.dtype
    return made


def _head(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    """A classifier beside the maps: an output of its own."""
    flat = _settled(graph, emit(graph, "Flatten", x, out="flat"))
    scaled = emit(graph, "Mul", flat, 0.5, out="scaled") if rng.random() < 0.5 else flat
    weight = _normal(x, rng, 3, flat.shape[1])
    scores = emit(graph, "Gemm", scaled, weight, _normal(x, rng, 3), out="scores", transB=1)
    emit(graph, "Add", scores, _normal(x, rng, 3), out="head")
    return x


FILTERS = [_conv, _same_conv, _depthwise, _large, _dilated_run, _shared_conv, _transposed, _norm]
FILTERS += [_affine, _norm, _affine, _cascade]
OTHERS = [_unary, _clip, _prelu, _swish, _squeeze_and_excite, _pool, _resize, _join, _transposes]
OTHERS += [_reshapes, _squeezes, _pad, _slice, _split, _twice, _casts, _constants, _either, _head]
PARTS = st.sampled_from(FILTERS) | st.sampled_from(OTHERS)
OPSETS = [n for n in (11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21) if runtime_accepts(n)]


def _settled(graph: gs.Graph, tensor: gs.Tensor) -> gs.Tensor:
    """The tensor once its type and shape are known."""
    refresh_shapes(graph)
    return tensor


def _free_extents(graph: gs.Graph) -> None:
    """Leave rows and columns open, unless that leaves no output whose rank is known.

    ONNX's checker asks for the rank of an output; one that a Reshape takes from a tensor of
    extents has none.
    """
    x = graph.inputs[0]
    static, x.shape = x.shape, [1, 3, "H", "W"]
    known = infer_shapes(graph)
    ranked = []
    for tensor in graph.outputs:
        _, extents = known[tensor.name]
        if extents is not None:
            tensor.shape = list(extents)
            ranked.append(tensor)
    if not ranked:
        x.shape = static
        return
    graph.outputs = ranked
    refresh_shapes(graph)


class Drawn(gs.Graph):
    """A random network."""

    example: list[int]
    """Rows and columns that its input may have."""


@st.composite
def networks(draw: st.DrawFn, dtypes: tuple[str, ...] = ("float32", "float32", "float16")) -> Drawn:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = [int(n) for n in rng.integers(6, 13, 2)]
    x = gs.Variable("x", np.dtype(draw(st.sampled_from(dtypes))), [1, 3, *size])
    graph = Drawn(inputs=[x], opset=draw(st.sampled_from(OPSETS)), ir_version=8)
    made: list[gs.Tensor] = [x]
    for kind in draw(st.lists(PARTS, min_size=1, max_size=16)):
        # Mostly a chain, sometimes a branch.
        source = made[-1] if rng.random() < 0.85 else made[rng.integers(len(made))]
        tensor = _settled(graph, kind(graph, source, rng))
        shape = static_shape(tensor)
        if shape is not None and max(shape[1:]) <= LARGEST:
            made.append(tensor)
    # What nobody reads is an output, mostly; so is now and then what somebody does.
    tensors = [t for node in graph.nodes for t in node.outputs if t.shape is not None]
    chances = [0.1 if tensor.outputs else 0.8 for tensor in tensors]
    graph.outputs = [t for t, chance in zip(tensors, chances, strict=True) if rng.random() < chance]
    graph.outputs = graph.outputs or [_settled(graph, emit(graph, "Neg", made[-1], out="y"))]
    if draw(st.integers(0, 2)) == 2:
        _free_extents(graph)
    graph.example = size
    return graph


# --- what must hold -----------------------------------------------------------------------------


def _values(graph: gs.Graph, size: list[int]) -> dict[str, np.ndarray]:
    x = 2 * np.random.default_rng(1).standard_normal((1, 3, *size))
    engine = OnnxRuntimeEngine(to_proto(graph).SerializeToString(), threads=1, optimize=False)
    return engine.run({"x": x.astype(graph.inputs[0].dtype)})


def _near(value: np.ndarray, expected: np.ndarray) -> bool:
    return difference(value, expected) < EXACT_LIMITS.get(str(expected.dtype), EXACT_LIMIT)


def _expected(graph: Drawn) -> dict[str, np.ndarray]:
    """What a network gives; one that overflows, or that onnxruntime refuses, does not count."""
    try:
        values = _values(graph, graph.example)
    except GraphoptError:
        assume(False)
    assume(all(np.isfinite(value).all() for value in values.values()))
    return values


@pytest.fixture(scope="module", autouse=True)
def quick_fits() -> Iterator[None]:
    """The form of stacks is what counts here, not how well they are fitted."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (stack_large_conv, undilate_conv):
            patch.setattr(module, "fit_stack", partial(fit_stack, steps=1))
        yield


class Pictures(Calibration):
    """Small ones, without files."""

    def picture(self, image: Path | int) -> Image.Image:
        assert isinstance(image, int)
        pixels = np.random.default_rng(image).integers(0, 255, (12, 12, 3), np.uint8)
        return Image.fromarray(pixels)


SPEC = PoseSpec(
    preprocess=Preprocess(color="rgb", mean=(128.0,) * 3, scale=(1 / 64,) * 3),
    skeleton=load_skeleton("coco18"),
    heat=MapSlice(output="y", count=19),
    stride=1,
)


@examples(40)
@given(networks())
def test_exact_preset_changes_no_output(graph: Drawn) -> None:
    before = _expected(graph)
    result = run_pipeline(graph, parse_pipeline(PRESETS["exact"]), verify="off")
    after = _values(result.graph, graph.example)
    assert list(before) == list(after)
    assert all(_near(after[name], before[name]) for name in before)
    again = run_pipeline(result.graph, parse_pipeline(PRESETS["exact"]), verify="off")
    assert [step.changes for step in again.steps] == [(), (), ()]


@examples(30)
@given(networks(), st.randoms(use_true_random=False))
def test_dead_channels_are_not_missed(graph: Drawn, random: Random) -> None:
    """Some filters are zero, and some channels are read by nobody."""
    for node in graph.nodes:
        if node.op == "Conv" and random.random() < 0.7:
            weight = values_of(node.inputs[1]).copy()
            weight[random.randrange(len(weight)) :: 2] = 0
            weight[:, random.randrange(weight.shape[1]) :: 3] = 0
            node.inputs[1] = gs.Constant(f"{node.name}.dead", weight)
    before = _expected(graph)
    pruned = graph.copy()
    chosen = parse_pipeline("prune-channels{ratio=0, multiple=1}")[0]
    chosen.run(pruned)
    onnx.checker.check_model(to_proto(pruned), full_check=True)
    after = _values(pruned, graph.example)
    assert all(_near(after[name], before[name]) for name in before)
    assert not chosen.run(pruned).changes


@examples(20)
@given(networks())
def test_inner_tensors_keep_their_values_or_lose_their_names(graph: Drawn) -> None:
    """The rule that blame and layer-wise work rest on: same name, same value."""
    _expected(graph)
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
    before = _expected(graph)
    after = _values(result.graph, graph.example)
    assert all(_near(after[name], before[name]) for name in shared)


@examples(40)
@given(networks(), st.data())
def test_every_pass(every_pass: list[Pass[Any]], graph: Drawn, data: st.DataObject) -> None:
    before = _expected(graph)
    chosen = data.draw(st.sampled_from([p for p in every_pass if p.name not in ELSEWHERE]))
    rows, columns = graph.example
    images = None
    if graph.inputs[0].dtype == np.float32:  # they are made into single precision only
        images = Pictures(SPEC, "x", (rows, columns), fitting=range(1, 5), held_out=range(1))
    context = Context(graph.copy(), images, load_device("adreno-640"))
    changed = graph.copy()
    try:
        outcome = chosen.run(changed, context)
    except GraphoptError:
        return
    onnx.checker.check_model(to_proto(changed), full_check=True)
    after = _values(changed, graph.example)
    assert {n: (v.dtype, v.shape) for n, v in after.items()} == {
        n: (v.dtype, v.shape) for n, v in before.items()
    }
    if chosen.numerics is Numerics.EXACT:
        assert all(_near(after[name], before[name]) for name in before)
    once = [node.op for node in changed.nodes]
    again = chosen.run(changed, context)
    # A hard gate that is one node is a site again, and becomes what it is.
    assert [node.op for node in changed.nodes] == once, (outcome, again)
