"""`undilate-conv`: phases laid side by side give what the dilated convolution gave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from known import known
from small_networks import MakeGraph, Normal, Ops, Rewrite

from graphopt.analysis.cost import cost_of
from graphopt.analysis.latency.device import load_device
from graphopt.analysis.latency.predict import network_ms
from graphopt.errors import InputError
from graphopt.ir.edit import emit
from graphopt.ir.onnx_io import load_model, to_proto
from graphopt.ir.shape_inference import refresh_shapes
from graphopt.optimizer.pass_contract import Context
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.syntax import parse_pipeline
from graphopt.passes.undilate_conv import UndilateConv
from graphopt.runtime.differences import difference
from graphopt.runtime.engine import OnnxRuntimeEngine


def dilated(graph: gs.Graph) -> list[gs.Node]:
    return [n for n in graph.nodes if any(d > 1 for d in n.attrs.get("dilations") or [])]


def conv(pads: Sequence[int], dilation: Sequence[int], group: int = 1) -> str:
    return f"Conv<pads={list(pads)}, dilations={list(dilation)}, group={group}>"


CASES = {
    # pads, dilation, kernel, group, height and width out
    "same": ((2, 2, 2, 2), (2, 2), (3, 3), 1, (9, 12)),
    "no pads": ((0, 0, 0, 0), (2, 2), (3, 3), 1, (5, 8)),
    "odd pads": ((1, 3, 3, 1), (2, 2), (3, 3), 1, (9, 12)),
    "ends only": ((0, 0, 4, 4), (2, 2), (3, 3), 1, (9, 12)),
    "begins only": ((4, 4, 0, 0), (2, 2), (3, 3), 1, (9, 12)),
    "three": ((3, 3, 3, 3), (3, 3), (3, 3), 2, (9, 12)),
    "larger than the image": ((10, 14, 10, 14), (10, 14), (3, 3), 1, (9, 12)),
    "rows only": ((2, 1, 2, 1), (2, 1), (3, 3), 1, (9, 12)),
    "columns only, not padded": ((0, 0, 0, 0), (1, 5), (3, 2), 1, (7, 7)),
    "even kernel": ((1, 2, 2, 4), (3, 2), (2, 4), 1, (9, 12)),
    "depthwise": ((4, 4, 4, 4), (4, 4), (3, 3), 4, (9, 12)),
    "one pixel, nominally dilated": ((0, 0, 0, 0), (2, 2), (1, 1), 1, (9, 12)),
}


@pytest.mark.parametrize(("pads", "dilation", "kernel", "group", "out"), CASES.values(), ids=CASES)
def test_one_convolution(
    network: MakeGraph,
    rewrite: Rewrite,
    normal: Normal,
    pads: tuple[int, int, int, int],
    dilation: tuple[int, int],
    kernel: tuple[int, int],
    group: int,
    out: tuple[int, int],
) -> None:
    graph = network(
        "float[2,4,9,12] x",
        f"float[2,4,{out[0]},{out[1]}] y",
        f"y = {conv(pads, dilation, group)}(x, w, b)",
        w=normal(4, 4 // group, *kernel),
        b=normal(4),
    )
    plain, outcome = rewrite(graph, UndilateConv())
    assert len(outcome.changes) == 1
    assert not outcome.skips
    assert not dilated(plain)
    (only,) = (node for node in plain.nodes if node.op == "Conv")
    assert only.inputs[1].name == "w"


SAME = conv((2, 2, 2, 2), (2, 2))


def test_neighbours_share_one_split_and_one_merge(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal
) -> None:
    """Through an activation, a 1x1 convolution, a residual and a factor for each channel."""
    graph = network(
        "float[1,4,9,11] x",
        "float[1,4,9,11] y",
        f"a = {SAME}(x, w, b) r = Relu(a) p = Conv(r, u, b) s = Add(p, x) m = Mul(s, c)"
        f" q = {SAME}(m, v, b) y = Sigmoid(q)",
        **{"w": normal(4, 4, 3, 3), "v": normal(4, 4, 3, 3), "u": normal(4, 4, 1, 1)},
        **{"b": normal(4), "c": normal(4, 1, 1)},
    )
    plain, outcome = rewrite(graph, UndilateConv())
    assert len(outcome.changes) == 1
    assert ops(plain).count("Transpose") == 2
    assert ops(plain).count("Pad") == ops(plain).count("Slice") == 1
    # The zeros between the phases are restored once, before the second convolution.
    assert ops(plain).count("Mul") == 2
    # The Sigmoid is on the network's way out: it works on the merged image.
    assert plain.nodes[-1].op == "Sigmoid"
    assert plain.nodes[-1].inputs[0].name == "q"
    assert not dilated(plain)


def test_pads_may_differ_between_neighbours(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal
) -> None:
    graph = network(
        "float[1,4,9,11] x",
        "float[1,4,5,9] y",
        f"a = {conv((1, 3, 0, 3), (2, 2))}(x, w) y = {conv((3, 0, 0, 0), (2, 2))}(a, w)",
        w=normal(4, 4, 3, 3),
    )
    plain, outcome = rewrite(graph, UndilateConv())
    assert len(outcome.changes) == 1
    assert ops(plain).count("Transpose") == 2


def test_what_others_read_is_merged_under_its_name(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal
) -> None:
    graph = network(
        "float[1,4,8,8] x",
        "float[1,4,8,8] y, float[1,4,8,8] a, float[1,4,1,1] g",
        f"a = {SAME}(x, w) r = Relu(a) g = GlobalAveragePool(r) y = {SAME}(r, w)",
        w=normal(4, 4, 3, 3),
    )
    plain, _ = rewrite(graph, UndilateConv())
    assert ops(plain).count("Slice") == 3
    assert {"a", "r", "y"} <= set(plain.tensors())


@pytest.mark.parametrize(
    "between",
    [
        "b = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(a)",
        "b = Conv<pads=[1, 1, 1, 1]>(a, w)",
        "b = Add(a, position)",
        "b = Add(a, z)",
        "b = Softmax<axis=3>(a)",
    ],
    ids=["pooling", "a plain convolution", "a constant by position", "another tensor", "Softmax"],
)
def test_what_looks_beyond_a_pixel_is_done_on_the_merged_image(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal, between: str
) -> None:
    graph = network(
        "float[1,4,8,8] x, float[1,4,8,8] z",
        "float[1,4,8,8] y",
        f"a = {SAME}(x, w) {between} y = {SAME}(b, w)",
        w=normal(4, 4, 3, 3),
        position=normal(1, 1, 8, 8),
    )
    plain, outcome = rewrite(graph, UndilateConv())
    assert len(outcome.changes) == 2
    assert ops(plain).count("Transpose") == 4
    assert not dilated(plain)


@pytest.mark.parametrize(
    ("between", "changes"), [("Div(a, x)", 2), ("Div(c, a)", 2), ("Div(a, c)", 1)]
)
def test_zeros_between_the_phases_divide_nothing(
    network: MakeGraph, rewrite: Rewrite, normal: Normal, between: str, changes: int
) -> None:
    graph = network(
        "float[1,4,8,8] x",
        "float[1,4,8,8] y",
        f"a = {SAME}(x, w) b = {between} y = {SAME}(b, w)",
        w=normal(4, 4, 3, 3),
        c=normal(4, 1, 1),
    )
    plain, outcome = rewrite(graph, UndilateConv())
    assert len(outcome.changes) == changes
    assert not dilated(plain)


def test_other_dilations_are_other_phases(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal
) -> None:
    three = conv((3, 3, 3, 3), (3, 3))
    graph = network(
        "float[1,4,8,8] x",
        "float[1,4,8,8] y",
        f"a = {SAME}(x, w) b = {three}(a, w) c = {three}(x, w) y = Add(b, c)",
        w=normal(4, 4, 3, 3),
    )
    plain, outcome = rewrite(graph, UndilateConv())
    assert len(outcome.changes) == 3
    assert ops(plain).count("Slice") == 3


def test_auto_pad_and_a_batch_of_any_size(
    network: MakeGraph, rewrite: Rewrite, normal: Normal
) -> None:
    graph = network(
        "float[n,4,7,8] x",
        "float[n,4,a,b] y",
        'y = Conv<auto_pad="VALID", dilations=[2, 2]>(x, w)',
        w=normal(4, 4, 2, 3),
    )
    plain, outcome = rewrite(graph, UndilateConv())
    assert len(outcome.changes) == 1
    assert not dilated(plain)


SKIPPED = {
    "strides": ("y = Conv<dilations=[2, 2], strides=[2, 2]>(x, w)", "strides"),
    "transposed": ("y = ConvTranspose<dilations=[2, 2]>(x, w)", "transposed"),
    "weight from outside": ("y = Conv<dilations=[2, 2]>(x, given)", "not constant"),
    "pads": ("y = Conv<dilations=[2, 2], pads=[5, 5, 5, 5]>(x, w)", "than its kernel reaches"),
}


@pytest.mark.parametrize(("body", "reason"), SKIPPED.values(), ids=SKIPPED)
def test_skips(
    network: MakeGraph, rewrite: Rewrite, normal: Normal, body: str, reason: str
) -> None:
    graph = network(
        "float[1,4,16,16] x, float[4,4,3,3] given",
        "float[1,4,h,w_] y",
        body,
        w=normal(4, 4, 3, 3),
    )
    same, outcome = rewrite(graph, UndilateConv())
    assert [n.op for n in same.nodes] == [n.op for n in graph.nodes]
    assert reason in outcome.skips[0].reason


def test_a_size_that_is_not_known(network: MakeGraph, normal: Normal) -> None:
    graph = network(
        "float[1,4,h,16] x", "float[1,4,h,16] y", f"y = {SAME}(x, w)", w=normal(4, 4, 3, 3)
    )
    outcome = UndilateConv().run(graph)
    assert "--input-shape" in outcome.skips[0].reason
    assert dilated(graph)


def test_half_precision(network: MakeGraph, normal: Normal) -> None:
    graph = network(
        "float16[1,4,8,8] x",
        "float16[1,4,8,8] y",
        f"a = {SAME}(x, w) y = {SAME}(a, w)",
        w=normal(4, 4, 3, 3).astype(np.float16),
    )
    result = run_pipeline(graph, parse_pipeline("undilate-conv"))
    assert len(result.steps[0].changes) == 1


# --- stacks -------------------------------------------------------------------------------------

STACKED = {
    # kernel, group, attributes, height and width out, how many
    "dilation 2": (3, 1, "dilations=[2, 2], pads=[2, 2, 2, 2]", (9, 12), 2),
    "dilation 3": (3, 1, "dilations=[3, 3], pads=[3, 3, 3, 3]", (9, 12), 3),
    "depthwise": (3, 4, "dilations=[2, 2], pads=[2, 2, 2, 2], group=4", (9, 12), 2),
    "grouped": (3, 2, "dilations=[2, 2], pads=[2, 2, 2, 2], group=2", (9, 12), 2),
    "2x2 with a stride": (2, 1, "dilations=[4, 4], pads=[2, 1, 2, 3], strides=[2, 1]", (5, 12), 2),
}


@pytest.mark.parametrize(("size", "group", "attrs", "out", "depth"), STACKED.values(), ids=STACKED)
def test_stacked(
    network: MakeGraph,
    normal: Normal,
    size: int,
    group: int,
    attrs: str,
    out: tuple[int, int],
    depth: int,
) -> None:
    graph = network(
        "float[1,4,9,12] x",
        f"float[1,4,{out[0]},{out[1]}] y",
        f"y = Conv<{attrs}>(x, w, b)",
        w=normal(4, 4 // group, size, size),
        b=normal(4),
    )
    stacked = graph.copy()
    width = 0 if group == 4 else 12
    result = run_pipeline(
        stacked, parse_pipeline(f"undilate-conv{{way=stacked, width={width}, max_residual=1}}")
    )
    (step,) = result.steps
    assert step.numerics.value == "approximate"
    (change,) = step.changes
    assert [tuple(n.inputs[1].shape[2:]) for n in result.graph.nodes] == [(3, 3)] * depth
    assert not dilated(result.graph)
    assert result.graph.nodes[-1].outputs[0].name == "y"
    x = normal(1, 4, 9, 12)
    before, after = (
        np.asarray(
            OnnxRuntimeEngine(to_proto(g).SerializeToString()).run({"x": x})["y"], np.float32
        )
        for g in (graph, result.graph)
    )
    lost = float(change.summary.split(", ")[1].split()[0])
    assert lost < 0.6
    assert np.linalg.norm(after - before) < (2 * lost + 0.01) * np.linalg.norm(before)


STACK_SKIPS = {
    "rows only": ("y = Conv<dilations=[2, 1]>(x, w)", "5x3"),
    "even": ("y = Conv<dilations=[3, 3]>(x, v)", "4x4"),
    "transposed": ("y = ConvTranspose<dilations=[2, 2]>(x, w)", "transposed"),
    "groups": ("y = Conv<dilations=[2, 2], group=2>(x, g)", "do not divide"),
    "random weights": ("y = Conv<dilations=[2, 2]>(x, w)", "would leave 0."),
}


@pytest.mark.parametrize(("body", "reason"), STACK_SKIPS.values(), ids=STACK_SKIPS)
def test_stacked_skips(
    network: MakeGraph, normal: Normal, ops: Ops, body: str, reason: str
) -> None:
    weights = {"w": normal(4, 4, 3, 3), "v": normal(4, 4, 2, 2), "g": normal(4, 2, 3, 3)}
    graph = network("float[1,4,16,16] x", "float[n,c,h,k] y", body, **weights)
    before = ops(graph)
    outcome = UndilateConv(way="stacked", width=5, max_residual=0.05).run(graph)
    assert not outcome.changes
    assert any(reason in skip.reason for skip in outcome.skips)
    assert ops(graph) == before


# --- blocks -------------------------------------------------------------------------------------

BLOCK = (
    "a = Conv(x, p) b = Relu(a) c = Conv<pads=[1, 1, 1, 1]>(b, q) d = Relu(c)"
    f" e = {SAME}(d, r, bias) f = Relu(e) y = Add(f, b)"
)


def block(
    network: MakeGraph, normal: Normal, dilated_kernel: np.ndarray, size: tuple[int, int] = (8, 9)
) -> gs.Graph:
    weights = {"p": normal(4, 4, 1, 1), "q": normal(4, 4, 3, 3), "r": dilated_kernel}
    shape = f"float[1,4,{size[0]},{size[1]}]"
    return network(f"{shape} x", f"{shape} y", BLOCK, bias=normal(4), **weights)


def test_a_block_becomes_three_3x3(network: MakeGraph, rewrite: Rewrite, normal: Normal) -> None:
    """The same where the dilated kernel reads only its middle: it has no gaps to lose."""
    kernel = np.zeros((4, 4, 3, 3), np.float32)
    kernel[..., 1, 1] = normal(4, 4)
    plain, outcome = rewrite(block(network, normal, kernel), UndilateConv(way="block"))
    assert len(outcome.changes) == 1
    convs = [node for node in plain.nodes if node.op == "Conv"]
    assert [tuple(node.inputs[1].shape[2:]) for node in convs] == [(3, 3)] * 3
    assert not dilated(plain)
    assert [node.outputs[0].name for node in convs] == ["a", "c", "e"]


BLOCK_SKIPS = {
    "alone": (f"y = {SAME}(x, r)", "does not end a block"),
    "depthwise": (
        f"a = Conv(x, p) b = Conv<pads=[1,1,1,1]>(a, q) y = {conv((2, 2, 2, 2), (2, 2), 4)}(b, s)",
        "does not end a block",
    ),
    "two dilated": (f"a = Conv(x, p) b = {SAME}(a, q) y = {SAME}(b, r)", "as well"),
    "shrinking": (f"a = Conv(x, p) b = Conv(a, q) y = {SAME}(b, r)", "keep the size"),
    "pooled": (
        f"a = Conv(x, p) b = Conv<pads=[1,1,1,1]>(a, q) c = MaxPool<kernel_shape=[1, 1]>(b)"
        f" y = {SAME}(c, r)",
        "does not end a block",
    ),
}


@pytest.mark.parametrize(("body", "reason"), BLOCK_SKIPS.values(), ids=BLOCK_SKIPS)
def test_no_block(network: MakeGraph, normal: Normal, ops: Ops, body: str, reason: str) -> None:
    weights = {"p": normal(4, 4, 1, 1), "q": normal(4, 4, 3, 3), "r": normal(4, 4, 3, 3)}
    graph = network("float[1,4,9,9] x", "float[n,c,h,k] y", body, s=normal(4, 1, 3, 3), **weights)
    before = ops(graph)
    outcome = UndilateConv(way="block").run(graph)
    assert not outcome.changes
    assert any(reason in skip.reason for skip in outcome.skips)
    assert ops(graph) == before


# --- the fastest way ----------------------------------------------------------------------------


def big(network: MakeGraph, normal: Normal, size: str = "46,82") -> gs.Graph:
    """A dilated convolution that is worth something, of as many channels as Winograd takes."""
    shape = f"float[1,16,{size}]"
    body = f"a = Relu(x) y = {SAME}(a, w)"
    return network(f"{shape} x", f"{shape} y", body, w=normal(16, 16, 3, 3) / 12)


def test_phases_where_plain_kernels_are_faster(
    network: MakeGraph, rewrite: Rewrite, normal: Normal
) -> None:
    context = Context(device=load_device("adreno-640"))
    graph = big(network, normal)
    before = network_ms(graph, known(context.device))
    outcome = UndilateConv(way="fastest").run(graph, context)
    assert "phases" in outcome.changes[0].summary
    assert network_ms(graph, known(context.device)) < before


def test_stacks_where_phases_cannot_be(network: MakeGraph, normal: Normal) -> None:
    context = Context(device=load_device("adreno-640"))
    graph = network(
        "float[1,16,46,82] x",
        "float[1,16,a,b] y",
        "y = Conv<dilations=[2, 2], pads=[5, 5, 5, 5]>(x, w)",
        w=normal(16, 16, 3, 3),
    )
    outcome = UndilateConv(way="fastest", max_residual=1).run(graph, context)
    assert "2 3x3" in outcome.changes[0].summary


def test_no_stacks_where_a_known_size_would_allow_phases(
    network: MakeGraph, normal: Normal
) -> None:
    context = Context(device=load_device("adreno-640"))
    graph = big(network, normal, "h,k")
    outcome = UndilateConv(way="fastest").run(graph, context)
    assert not outcome.changes
    assert "--input-shape" in outcome.skips[0].reason


def test_nothing_where_dilation_costs_nothing(network: MakeGraph, normal: Normal, ops: Ops) -> None:
    context = Context(device=load_device("mali-g76-mp12"))
    graph = big(network, normal)
    outcome = UndilateConv(way="fastest").run(graph, context)
    assert not outcome.changes
    assert "mali-g76-mp12" in outcome.skips[0].reason
    assert ops(graph) == ["Relu", "Conv"]


def test_the_fastest_way_needs_a_device(network: MakeGraph, normal: Normal) -> None:
    with pytest.raises(InputError, match="depends on the device"):
        UndilateConv(way="fastest").run(big(network, normal))


# --- random networks ----------------------------------------------------------------------------

CHANNELS = 4


def _random_conv(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    group, kernel = int(rng.choice([1, 2, 4])), [int(k) for k in rng.integers(1, 4, 2)]
    dilation = [int(d) for d in rng.choice([1, 2, 2, 3], 2)]
    reach = np.array([(k - 1) * d for k, d in zip(kernel, dilation, strict=True)])
    begins = rng.integers(0, reach + 1)
    # Mostly the size stays, so that there is something to add up.
    ends = reach - begins if rng.random() < 0.8 else rng.integers(0, reach + 1)
    weight = rng.standard_normal((CHANNELS, CHANNELS // group, *kernel)).astype(np.float32) / 3
    pads = [int(p) for p in (*begins, *ends)]
    return emit(graph, "Conv", x, weight, out="conv", group=group, pads=pads, dilations=dilation)


def _same_conv(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    weight = rng.standard_normal((CHANNELS, CHANNELS, 3, 3)).astype(np.float32) / 3
    return emit(graph, "Conv", x, weight, out="conv", pads=[2] * 4, dilations=[2, 2])


def _activation(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    return emit(graph, str(rng.choice(["Relu", "Sigmoid", "Exp"])), x, out="active")


def _shifted(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    # Far from zero, so that zeros between the phases that are not restored show.
    return emit(graph, "Add", x, rng.standard_normal((CHANNELS, 1, 1)).astype(np.float32), out="up")


def _pool(graph: gs.Graph, x: gs.Tensor, rng: np.random.Generator) -> gs.Tensor:
    return emit(graph, "MaxPool", x, out="pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])


KINDS = [_random_conv, _same_conv, _same_conv, _activation, _shifted, _shifted, _pool]


@st.composite
def networks(draw: st.DrawFn) -> gs.Graph:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = [int(n) for n in rng.integers(7, 14, 2)]
    x = gs.Variable("x", np.dtype(np.float32), [1, CHANNELS, *size])
    graph = gs.Graph(inputs=[x], opset=17, ir_version=8)
    made: list[gs.Tensor] = [x]
    for _ in range(draw(st.integers(2, 10))):
        source = made[-1] if rng.random() < 0.8 else made[rng.integers(len(made))]
        if source.shape is None or min(source.shape[2:]) < 7:
            source = x
        alike = [t for t in made if t.shape == source.shape and t is not source]
        if alike and rng.random() < 0.25:
            made.append(emit(graph, "Add", source, alike[rng.integers(len(alike))], out="sum"))
        else:
            made.append(KINDS[rng.integers(len(KINDS))](graph, source, rng))
        graph.outputs = [made[-1]]
        refresh_shapes(graph)
        made[-1].shape = _shape(graph, made[-1])
    graph.outputs = [t for t in made if t is not x and (not t.outputs or rng.random() < 0.1)]
    return graph


def _shape(graph: gs.Graph, tensor: gs.Tensor) -> list[int]:
    from graphopt.ir.shape_inference import infer_shapes

    return cast("list[int]", list(known(infer_shapes(graph)[tensor.name][1])))


def _values(graph: gs.Graph) -> dict[str, np.ndarray]:
    x = np.random.default_rng(1).standard_normal(graph.inputs[0].shape).astype(np.float32)
    return OnnxRuntimeEngine(to_proto(graph).SerializeToString(), threads=1).run({"x": x})


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_random_networks_keep_their_outputs(graph: gs.Graph) -> None:
    plain = graph.copy()
    outcome = UndilateConv().run(plain)
    assert not outcome.skips
    assert not dilated(plain)
    before, after = _values(graph), _values(plain)
    assert list(before) == list(after)
    assert all(difference(after[name], before[name]) < 1e-4 for name in before)


# --- trained networks ---------------------------------------------------------------------------


@pytest.mark.assets
def test_lightweight_openpose(lwop: Path) -> None:
    """Five dense blocks and one depthwise convolution; 184 / 8 = 23 rows do not divide by two."""
    graph = load_model(lwop, {"data": (1, 3, 184, 240)})
    assert len(dilated(graph)) == 6
    result = run_pipeline(graph, parse_pipeline("undilate-conv"))
    (step,) = result.steps
    assert len(step.changes) == 6
    assert not dilated(result.graph)
    assert known(step.max_abs_diff) < 1e-4
    assert result.after.params == result.before.params


@pytest.mark.assets
def test_lightweight_openpose_in_blocks(lwop: Path) -> None:
    """The five refinement blocks; one dilated depthwise convolution in the backbone is left."""
    graph = load_model(lwop, {"data": (1, 3, 368, 368)})
    before = cost_of(graph).macs
    outcome = UndilateConv(way="block").run(graph)
    assert (len(outcome.changes), len(outcome.skips)) == (5, 1)
    assert len(dilated(graph)) == 1
    widened = 46 * 46 * 8 * 128 * (185 + 4 * 128)
    assert cost_of(graph).macs - before == widened
