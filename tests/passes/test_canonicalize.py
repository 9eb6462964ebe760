"""`canonicalize`: what is taken out, and what only looks as if it could be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from small_networks import MakeGraph, Normal, Ops, Rewrite

from graphopt.ir.onnx_io import load_model, to_proto
from graphopt.passes.canonicalize import Canonicalize

X = "float[2,4,6,8] x"
Y = "float[2,4,6,8] y"


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


CONSTANTS = {
    "zeros": ints(*[0] * 8),
    "ones8": ints(0, 0, 1, 1, 0, 0, 1, 1),
    "same": ints(2, 4, 6, 8),
    "kept": ints(0, 0, 6, -1),
    "other": ints(2, 4, 8, 6),
    "flat": ints(2, 192),
    "start": ints(0),
    "end": ints(2**31 - 1),
    "short": ints(7),
    "axis": ints(3),
    "two": ints(-2),
    "zero": np.zeros((1, 1, 1), np.float32),
    "one": np.float32(1),
    "wide": np.ones((1, 1, 1, 1, 1), np.float32),
    "high": np.float32(6),
    "low": np.float32(-1),
    "unit": np.ones(4, np.float32),
    "row": np.zeros((1, 1, 1, 8), np.float32),
    "no_roi": np.zeros(0, np.float32),
    "yes": np.bool_(True),
}

NO_OPS = {
    "Identity": "a = Identity(v)",
    "Dropout": "a = Dropout(v)",
    "Cast": "a = Cast<to=1>(v)",
    "Concat": "a = Concat<axis=1>(v)",
    "Pad": "a = Pad(v, zeros)",
    "Slice": "a = Slice(v, start, end, axis)",
    "Reshape": "a = Reshape(v, same)",
    "Reshape by copying": "a = Reshape(v, kept)",
    "Reshape there and back": "f = Reshape(v, flat) a = Reshape(f, same)",
    "Unsqueeze, Squeeze": "f = Unsqueeze(v, start) a = Squeeze(f, start)",
    "Expand": "a = Expand(v, same)",
    "Transpose": "a = Transpose<perm=[0,1,2,3]>(v)",
    "Transpose pair": "t = Transpose<perm=[0,2,3,1]>(v) a = Transpose<perm=[0,3,1,2]>(t)",
    "default Transpose pair": "t = Transpose(v) a = Transpose(t)",
    "MaxPool": "a = MaxPool<kernel_shape=[1,1], strides=[1,1]>(v)",
    "Resize": "a = Resize(v, no_roi, unit)",
    "Add": "a = Add(zero, v)",
    "Sub": "a = Sub(v, zero)",
    "Mul": "a = Mul(v, one)",
    "Div": "a = Div(v, one)",
    "Sum": "a = Sum(v)",
}


@pytest.mark.parametrize("body", NO_OPS.values(), ids=NO_OPS)
def test_no_ops_vanish(network: MakeGraph, rewrite: Rewrite, ops: Ops, body: str) -> None:
    graph = network(X, Y, f"v = Relu(x) {body} y = Sigmoid(a)", **CONSTANTS)
    clean, outcome = rewrite(graph, Canonicalize(), tolerance=0)
    assert ops(clean) == ["Relu", "Sigmoid"]
    assert outcome.changes


@pytest.mark.parametrize("body", NO_OPS.values(), ids=NO_OPS)
def test_an_output_of_the_network_keeps_its_name(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, body: str
) -> None:
    graph = network(X, Y, f"v = Sigmoid(x) {body} y = Identity(a)", **CONSTANTS)
    clean, _ = rewrite(graph, Canonicalize(), tolerance=0)
    assert ops(clean) == ["Sigmoid"]
    assert clean.outputs[0].name == clean.nodes[0].outputs[0].name == "y"


KEPT = {
    "Pad": ("float[2,4,8,10] y", "y = Pad(v, ones8)"),
    "Slice": ("float[2,4,6,7] y", "y = Slice(v, start, short, axis)"),
    "Slice of the rest": ("float[2,4,6,2] y", "y = Slice(v, two, end, axis)"),
    "Reshape": ("float[2,4,8,6] y", "y = Reshape(v, other)"),
    "Transpose": ("float[2,6,8,4] y", "y = Transpose<perm=[0,2,3,1]>(v)"),
    "Cast": ("float16[2,4,6,8] y", "y = Cast<to=10>(v)"),
    "Add": (Y, "y = Add(v, one)"),
    "Sub from zero": (Y, "y = Sub(zero, v)"),
    "Add that widens": ("float[2,4,6,8] y", "s = ReduceMax<axes=[3]>(v) y = Add(s, row)"),
    "Mul that adds a dimension": ("float[1,2,4,6,8] y", "y = Mul(v, wide)"),
    "Relu after a Clip below zero": (Y, "c = Clip(v, low, high) y = Relu(c)"),
    "MaxPool with indices": (
        f"{Y}, int64[2,4,6,8] i",
        "y, i = MaxPool<kernel_shape=[1,1], strides=[1,1]>(v)",
    ),
    "input to output": (f"{Y}, float[2,4,6,8] z", "y = Identity(x) z = Neg(v)"),
    "two names for the caller": (f"{Y}, float[2,4,6,8] z", "y = Neg(v) z = Identity(y)"),
}


@pytest.mark.parametrize(("outputs", "body"), KEPT.values(), ids=KEPT)
def test_what_looks_like_a_no_op_stays(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, outputs: str, body: str
) -> None:
    graph = network(X, outputs, f"v = Sigmoid(x) {body}", **CONSTANTS)
    clean, outcome = rewrite(graph, Canonicalize(), tolerance=0)
    assert ops(clean) == ops(graph)
    assert not outcome.changes


@pytest.mark.parametrize("before", ["Relu(x)", "Sigmoid(x)", "Clip(x, zero_d, high)", "Abs(x)"])
def test_relu_after_what_is_never_negative(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, before: str
) -> None:
    graph = network(X, Y, f"a = {before} y = Relu(a)", zero_d=np.float32(0), **CONSTANTS)
    assert len(ops(rewrite(graph, Canonicalize(), tolerance=0)[0])) == 1


def test_dropout_in_training_mode_stays(network: MakeGraph, ops: Ops) -> None:
    graph = network(X, Y, "v = Relu(x) d = Dropout(v, low, yes) y = Neg(d)", **CONSTANTS)
    assert not Canonicalize().run(graph).changes


def test_dropout_whose_mask_is_read_stays(network: MakeGraph, ops: Ops) -> None:
    graph = network(X, f"{Y}, bool[2,4,6,8] m", "v = Relu(x) y, m = Dropout(v)", **CONSTANTS)
    outcome = Canonicalize().run(graph)
    assert ops(graph) == ["Relu", "Dropout"]
    assert "another of its outputs" in outcome.skips[0].reason


def test_transposes_merge(network: MakeGraph, rewrite: Rewrite, ops: Ops) -> None:
    graph = network(
        X,
        "float[2,8,4,6] y",
        "t = Transpose<perm=[0,2,3,1]>(x) y = Transpose<perm=[0,2,3,1]>(t)",
    )
    clean, _ = rewrite(graph, Canonicalize(), tolerance=0)
    assert ops(clean) == ["Transpose"]
    assert clean.nodes[0].attrs["perm"] == [0, 3, 1, 2]


def test_a_reshape_reads_from_before_another(
    network: MakeGraph, rewrite: Rewrite, ops: Ops
) -> None:
    graph = network(X, "float[2,4,8,6] y", "f = Flatten(x) y = Reshape(f, other)", **CONSTANTS)
    assert ops(rewrite(graph, Canonicalize(), tolerance=0)[0]) == ["Reshape"]


def test_constants_fold(network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal) -> None:
    graph = network(
        X,
        Y,
        """k = Constant<value_float=2.0>() half = Constant<value = float {0.5}>()
           s = Add(k, half) t = Transpose<perm=[3,2,1,0]>(w) u = Mul(t, s) y = Conv(x, u)""",
        w=normal(1, 1, 4, 4),
    )
    clean, _ = rewrite(graph, Canonicalize())
    assert ops(clean) == ["Conv"]


def test_every_part_of_a_split_constant_folds(
    network: MakeGraph, rewrite: Rewrite, ops: Ops
) -> None:
    """As tf2onnx writes the pads of a network: transposed, split, and put together again."""
    graph = network(
        X,
        "float[2,4,8,10] y",
        """t = Transpose<perm=[1,0]>(pads) f = Reshape(t, flat) a, b = Split<axis=0>(f, half)
           p = Concat<axis=0>(a, b) y = Pad(x, p)""",
        pads=np.array([[0, 0], [0, 0], [1, 1], [1, 1]], np.int64),
        flat=ints(8),
        half=ints(4, 4),
    )
    assert ops(rewrite(graph, Canonicalize(), tolerance=0)[0]) == ["Pad"]


def test_a_split_whose_part_is_an_output_stays(network: MakeGraph, ops: Ops) -> None:
    graph = network(
        X,
        "float[2,4,6,8] y, float[1] b",
        "a, b = Split<axis=0>(k, h) y = Add(x, a)",
        k=np.array([1, 2], np.float32),
        h=ints(1, 1),
    )
    assert not Canonicalize().run(graph).changes
    assert ops(graph) == ["Split", "Add"]


def test_static_shapes_fold(network: MakeGraph, rewrite: Rewrite, ops: Ops) -> None:
    graph = network(
        X,
        "float[2,192] y, float[2,4,6,8] z",
        """s = Shape(x) n = Size(x) i = Gather(s, start) r = Div(n, i) t = Concat<axis=0>(i, r)
           y = Reshape(x, t) e = Expand(one, s) z = Add(x, e)""",
        **CONSTANTS,
    )
    assert ops(rewrite(graph, Canonicalize(), tolerance=0)[0]) == ["Reshape", "Add"]


def test_known_extents_of_dynamic_shapes_fold(
    network: MakeGraph, rewrite: Rewrite, ops: Ops
) -> None:
    graph = network(
        "float[1,4,H,W] x",
        "int64[A] y, int64[B] z",
        """s = Shape(x) c = Gather(s, i) o = Unsqueeze(c, start) y = Concat<axis=0>(o, o)
           h = Slice(s, two, end) z = Mul(h, h)""",
        i=np.int64(1),
        **CONSTANTS,
    )
    clean, _ = rewrite(graph, Canonicalize(), tolerance=0)
    # The number of channels is known, height and width are not; y is an output of the network.
    assert "Gather" not in ops(clean)
    assert ops(clean).count("Slice") == 1


def test_large_values_are_not_folded(network: MakeGraph, rewrite: Rewrite, ops: Ops) -> None:
    graph = network(
        "float[1,1,600,600] x",
        "float[1,1,600,600] y",
        "k = Expand(one, size) y = Add(x, k)",
        size=ints(600, 600),
        one=np.float32(1),
    )
    kept, outcome = rewrite(graph, Canonicalize())
    assert ops(kept) == ["Expand", "Add"]
    assert "more than 1048576 bytes" in outcome.skips[0].reason
    folded, _ = rewrite(graph, Canonicalize(fold_limit=1 << 21))
    assert ops(folded) == ["Add"]


def test_quantized_weights_and_random_numbers_are_not_folded(network: MakeGraph, ops: Ops) -> None:
    graph = network(
        X,
        f"{Y}, float[2] z",
        "w = DequantizeLinear(q, scale) y = Mul(x, w) z = RandomNormal<shape=[2]>()",
        q=np.int8(3),
        scale=np.float32(0.1),
    )
    assert not Canonicalize().run(graph).changes
    assert ops(graph) == ["DequantizeLinear", "Mul", "RandomNormal"]


def test_duplicates_and_equal_initializers(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal
) -> None:
    weight = normal(4, 4, 1, 1)
    graph = network(
        X,
        f"{Y}, float[2,4,6,8] z",
        "a = Conv(x, w) b = Conv(x, w2) c = Relu(a) d = Relu(b) y = Add(c, d) z = Relu(b)",
        w=weight,
        w2=weight,
    )
    clean, _ = rewrite(graph, Canonicalize())
    assert sorted(ops(clean)) == ["Add", "Conv", "Relu"]
    assert [t.name for t in clean.outputs] == ["y", "z"]


def test_duplicates_that_are_both_outputs_stay(
    network: MakeGraph, rewrite: Rewrite, ops: Ops
) -> None:
    graph = network(X, f"{Y}, float[2,4,6,8] z", "y = Relu(x) z = Relu(x)")
    clean, outcome = rewrite(graph, Canonicalize(), tolerance=0)
    assert ops(clean) == ["Relu", "Relu"]
    assert "both are outputs" in outcome.skips[0].reason


def test_attributes_make_a_difference(network: MakeGraph, rewrite: Rewrite, ops: Ops) -> None:
    graph = network(
        X,
        Y,
        "a = LeakyRelu<alpha=0.1>(x) b = LeakyRelu<alpha=0.2>(x) y = Add(a, b)",
    )
    assert len(ops(rewrite(graph, Canonicalize(), tolerance=0)[0])) == 3


def test_dead_nodes_vanish(network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal) -> None:
    graph = network(X, Y, "y = Relu(x) a = Sigmoid(x) b = Conv(a, w)", w=normal(4, 4, 1, 1))
    clean, outcome = rewrite(graph, Canonicalize())
    assert ops(clean) == ["Relu"]
    assert len(outcome.changes) == 2


def test_what_a_subgraph_reads_is_alive(network: MakeGraph, rewrite: Rewrite, ops: Ops) -> None:
    graph = network(
        f"{X}, bool c",
        Y,
        """a = Identity(x) s = Sigmoid(a)
           y = If (c) <then_branch = g () => (float[2,4,6,8] p) { p = Relu(s) },
                       else_branch = h () => (float[2,4,6,8] q) { q = Neg(s) }>""",
    )
    clean, _ = rewrite(graph, Canonicalize(), tolerance=0)
    assert ops(clean) == ["Sigmoid", "If"]


@pytest.mark.parametrize(("limit", "left"), [(1 << 20, ["Conv"]), (0, ["Tile", "Conv"])])
def test_a_local_function_of_constants_is_folded_within_the_limit(
    tmp_path: Path, ops: Ops, limit: int, left: list[str]
) -> None:
    """It may be how weights are packed: its result is computed ahead only if it is small."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "own": 1]>
           net (float[1,2,4,4] x) => (float[1,16,4,4] y)
           <float[1,2,1,1] w = {1, 2}, int64[4] n = {16, 1, 1, 1}>
           { v = own.unpack(w, n) y = Conv(x, v) }
           <domain: "own", opset_import: ["": 17]> unpack (w, n) => (v) { v = Tile(w, n) }"""
    )
    onnx.save(model, tmp_path / "packed.onnx")
    graph = load_model(tmp_path / "packed.onnx")
    Canonicalize(fold_limit=limit).run(graph)
    assert ops(graph) == left


def test_a_function_is_not_taken_for_the_operator_of_its_name(tmp_path: Path, ops: Ops) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "own": 1]>
           net (float[4] x) => (float[4] y) { a = Relu(x) b = own.Identity(a) y = Neg(b) }
           <domain: "own", opset_import: ["": 17]> Identity (a) => (b) { b = Add(a, a) }"""
    )
    onnx.save(model, tmp_path / "m.onnx")
    graph = load_model(tmp_path / "m.onnx")
    assert not Canonicalize().run(graph).changes


@pytest.mark.assets
@pytest.mark.parametrize("name", ["lwop", "tfpose", "efficientpose"])
def test_trained_models_settle(request: pytest.FixtureRequest, name: str) -> None:
    graph = load_model(request.getfixturevalue(name))
    Canonicalize().run(graph)
    assert not Canonicalize().run(graph).changes


WEIGHT = np.ones((3, 4, 3, 3), np.float32)
PADDED = {
    "auto_pad": ('y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)', [0, 0, 1, 1]),
    "auto_pad, lower": ('y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, w)', [1, 1, 0, 0]),
    "VALID": ('y = Conv<auto_pad="VALID">(x, w)', [0, 0, 0, 0]),
    "Pad": ("p = Pad(x, around) y = Conv<pads=[0,1,0,1]>(p, w)", [1, 2, 2, 4]),
}


@pytest.mark.parametrize("name", PADDED)
def test_padding_becomes_part_of_the_convolution(
    name: str, network: MakeGraph, rewrite: Rewrite
) -> None:
    body, pads = PADDED[name]
    around = ints(0, 0, 1, 1, 0, 0, 2, 3)
    graph = network(X, "float[n,3,h,v] y", body, w=WEIGHT, around=around)
    after, _ = rewrite(graph, Canonicalize())
    (conv,) = after.nodes
    assert conv.attrs["pads"] == pads
    assert "auto_pad" not in conv.attrs


@pytest.mark.parametrize(
    "body",
    [
        "p = Pad(x, around, one) y = Conv(p, w)",
        'p = Pad<mode="edge">(x, around) y = Conv(p, w)',
        "p = Pad(x, channels) y = Conv(p, w5)",
        "p = Pad(x, cropping) y = Conv(p, w)",
        'y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(d, w)',
    ],
)
def test_padding_that_a_convolution_cannot_express_stays(
    body: str, network: MakeGraph, rewrite: Rewrite
) -> None:
    graph = network(
        f"{X}, float[1,4,a,b] d",
        "float[n,3,h,v] y",
        body,
        w=WEIGHT,
        w5=np.ones((3, 5, 3, 3), np.float32),
        one=np.float32(1),
        around=ints(0, 0, 1, 1, 0, 0, 2, 3),
        channels=ints(0, 1, 0, 0, 0, 0, 0, 0),
        cropping=ints(0, 0, -1, 0, 0, 0, 0, 0),
    )
    before = [node.op for node in graph.nodes]
    after, _ = rewrite(graph, Canonicalize())
    assert [node.op for node in after.nodes] == before
    assert after.nodes[-1].attrs.get("auto_pad") == graph.nodes[-1].attrs.get("auto_pad")


def test_strings_are_left_alone(network: MakeGraph) -> None:
    """onnx_graphsurgeon can write a string constant only as long as nobody has read it."""
    words = np.array(["a", "b"], object)
    graph = network(
        "string[2] x",
        "string[2] y, string[2] z",
        "ab = StringConcat(v, w) y = StringConcat(x, ab) z = StringConcat(x, w)",
        opset=21,
        v=words,
        w=words,
    )
    Canonicalize().run(graph)
    onnx.checker.check_model(to_proto(graph), full_check=True)


# --- inputs that are left out ---------------------------------------------------------------------

BIG = 2**62
LEFT_OUT = {
    "Slice by two, no axes": ("float[2,4,3,4] y", "y = Slice(v, s4, e4, , by_two)"),
    "Slice by two of two axes": ("float[2,2,6,8] y", "y = Slice(v, s2, e2, , by_two2)"),
    "Pad without a value": ("float[2,4,8,10] y", "p = Pad(v, ones8, ) y = Neg(p)"),
}


@pytest.mark.parametrize(("outputs", "body"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_optional_inputs_that_are_left_out(
    network: MakeGraph, rewrite: Rewrite, outputs: str, body: str
) -> None:
    given = {
        "s4": ints(0, 0, 0, 0),
        "e4": ints(BIG, BIG, BIG, BIG),
        "by_two": ints(1, 1, 2, 2),
        "s2": ints(0, 0),
        "e2": ints(BIG, BIG),
        "by_two2": ints(1, 2),
    }
    graph = network(X, outputs, f"v = Sigmoid(x) {body}", **CONSTANTS | given)
    rewrite(graph, Canonicalize(), tolerance=0)


def test_every_second_extent_of_a_shape(network: MakeGraph, rewrite: Rewrite, ops: Ops) -> None:
    graph = network(
        "float[N,4,6,8] x",
        "float[N,4,6,8] z, float[2] y",
        "z = Relu(x) n = Shape(z) e = Slice(n, one, end, , step) y = Cast<to=1>(e)",
        one=ints(1),
        end=ints(BIG),
        step=ints(2),
    )
    clean, _ = rewrite(graph, Canonicalize(), tolerance=0)
    assert ops(clean) == ["Relu", "Cast"]  # of extents 1 and 3, which are known


# --- branches that are always taken ---------------------------------------------------------------

BRANCHES = {
    "computed": "s = Sigmoid(v) o = Neg(s)",
    "computed outside": "o = Identity(v)",
    "constant": "o = Constant<value = float[1,1,1,1] {3.0}>()",
}


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("body", BRANCHES.values(), ids=BRANCHES)
def test_a_branch_that_is_always_taken(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, body: str, taken: bool
) -> None:
    other = "o = Tanh(v)"
    branches = (body, other) if taken else (other, body)
    out = f"float[{'1,1,1,1' if 'Constant' in body else '2,4,6,8'}] o"
    graph = network(
        X,
        f"{Y}, float[2,4,6,8] z",
        f"v = Relu(x) a = Exp(v) z = Neg(a) q = If<then_branch = t () => ({out}) "
        f"{{ {branches[0]} }}, else_branch = e () => ({out}) {{ {branches[1]} }}>(c) "
        "y = Add(q, v)",
        c=np.bool_(taken),
    )
    clean, outcome = rewrite(graph, Canonicalize(), tolerance=0)
    assert "If" not in ops(clean)
    assert "Tanh" not in ops(clean)
    branch = "then_branch" if taken else "else_branch"
    assert f"always takes its {branch}" in [change.summary for change in outcome.changes]


def test_branches_that_use_the_same_names(network: MakeGraph, rewrite: Rewrite, ops: Ops) -> None:
    branch = "{ s = Sigmoid(v) o = Neg(s) }"
    graph = network(
        X,
        Y,
        "v = Relu(x) "
        f"p = If<then_branch = t () => (float[2,4,6,8] o) {branch}, "
        f"else_branch = e () => (float[2,4,6,8] o) {branch}>(c) "
        f"q = If<then_branch = t () => (float[2,4,6,8] o) {branch.replace('Neg', 'Exp')}, "
        f"else_branch = e () => (float[2,4,6,8] o) {branch}>(c) y = Add(p, q)",
        c=np.bool_(True),
    )
    clean, _ = rewrite(graph, Canonicalize(), tolerance=0)
    assert sorted(ops(clean)) == ["Add", "Exp", "Neg", "Relu", "Sigmoid"]


def test_a_condition_that_shapes_decide(network: MakeGraph, rewrite: Rewrite, ops: Ops) -> None:
    """As torch.onnx writes squeeze(1): the branch depends on an extent that is known."""
    graph = network(
        "float[1,1,6] x",
        "float[1,6] y",
        "n = Shape(x) e = Gather<axis=0>(n, one) c = Equal(e, one_v) "
        "q = If<then_branch = t () => (float[1,6] o) { o = Squeeze(x, one) }, "
        "else_branch = e () => (float[1,1,6] o) { o = Identity(x) }>(c) y = Relu(q)",
        one=ints(1),
        one_v=ints(1),
    )
    clean, _ = rewrite(graph, Canonicalize(), tolerance=0)
    assert ops(clean) == ["Squeeze", "Relu"]


def test_a_condition_that_is_an_input_stays(network: MakeGraph, rewrite: Rewrite, ops: Ops) -> None:
    graph = network(
        f"{X}, bool c",
        Y,
        "y = If<then_branch = t () => (float[2,4,6,8] o) { o = Neg(x) }, "
        "else_branch = e () => (float[2,4,6,8] o) { o = Relu(x) }>(c)",
    )
    assert ops(rewrite(graph, Canonicalize(), tolerance=0)[0]) == ["If"]


# --- initializers that are written into -----------------------------------------------------------

WRITERS = {
    "training": (
        "n, m2, v2 = BatchNormalization<training_mode=1>(x, s, b, m, v) y = Relu(n)",
        f"{Y}, float[4] m2, float[4] v2",
        {
            "s": np.ones(4, "f4"),
            "b": np.zeros(4, "f4"),
            "m": np.zeros(4, "f4"),
            "v": np.ones(4, "f4"),
        },
    ),
    "a loop": (
        "y, r = Loop<body = l (int64 i, bool go, float[4,6,8] k, float[4,6,8] u) => "
        "(bool on, float[4,6,8] k2, float[4,6,8] u2) "
        "{ on = Identity(go) k2 = Add(k, u) u2 = Neg(u) }>(three, yes, s, m)",
        "float[4,6,8] y, float[4,6,8] r",
        {
            "three": np.int64(3),
            "yes": np.bool_(True),
            "s": np.ones((4, 6, 8), "f4"),
            "m": np.ones((4, 6, 8), "f4"),
        },
    ),
    "another domain": (
        "y = com.microsoft.BiasGelu(x, s) z = com.microsoft.BiasGelu(x, m)",
        f"{Y}, float[2,4,6,8] z",
        {"s": np.ones(8, "f4"), "m": np.ones(8, "f4")},
    ),
}


@pytest.mark.parametrize(("body", "outputs", "given"), WRITERS.values(), ids=WRITERS)
def test_equal_initializers_that_may_be_written_into(
    network: MakeGraph,
    rewrite: Rewrite,
    body: str,
    outputs: str,
    given: dict[str, Any],
) -> None:
    graph = network(X, outputs, body, **given)
    constants = {t.name for node in graph.nodes for t in node.inputs if t.name in given}
    clean, outcome = rewrite(graph, Canonicalize(), tolerance=0)
    assert constants == {t.name for node in clean.nodes for t in node.inputs if t.name in given}
    assert not [change for change in outcome.changes if "shares" in change.summary]


def test_equal_initializers_that_are_only_read_become_one(
    network: MakeGraph, rewrite: Rewrite
) -> None:
    graph = network(
        X,
        Y,
        "a = Add(x, s) b = Relu(a) y = Mul(b, m)",
        s=np.full(8, 2, "f4"),
        m=np.full(8, 2, "f4"),
    )
    clean, _ = rewrite(graph, Canonicalize(), tolerance=0)
    assert len({t.name for node in clean.nodes for t in node.inputs[1:]}) == 1
