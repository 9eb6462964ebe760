"""`canonicalize`: what is taken out, and what only looks as if it could be."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.model import load_model, to_proto
from graphopt.passes.canonicalize import Canonicalize

X = "float[2,4,6,8] x"
Y = "float[2,4,6,8] y"


def ints(*values):
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
def test_no_ops_vanish(network, rewrite, ops, body):
    graph = network(X, Y, f"v = Relu(x) {body} y = Sigmoid(a)", **CONSTANTS)
    clean, outcome = rewrite(graph, Canonicalize(), tolerance=0)
    assert ops(clean) == ["Relu", "Sigmoid"]
    assert outcome.changes


@pytest.mark.parametrize("body", NO_OPS.values(), ids=NO_OPS)
def test_an_output_of_the_network_keeps_its_name(network, rewrite, ops, body):
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
def test_what_looks_like_a_no_op_stays(network, rewrite, ops, outputs, body):
    graph = network(X, outputs, f"v = Sigmoid(x) {body}", **CONSTANTS)
    clean, outcome = rewrite(graph, Canonicalize(), tolerance=0)
    assert ops(clean) == ops(graph)
    assert not outcome.changes


@pytest.mark.parametrize("before", ["Relu(x)", "Sigmoid(x)", "Clip(x, zero_d, high)", "Abs(x)"])
def test_relu_after_what_is_never_negative(network, rewrite, ops, before):
    graph = network(X, Y, f"a = {before} y = Relu(a)", zero_d=np.float32(0), **CONSTANTS)
    assert len(ops(rewrite(graph, Canonicalize(), tolerance=0)[0])) == 1


def test_dropout_in_training_mode_stays(network, ops):
    graph = network(X, Y, "v = Relu(x) d = Dropout(v, low, yes) y = Neg(d)", **CONSTANTS)
    assert not Canonicalize().run(graph).changes


def test_dropout_whose_mask_is_read_stays(network, ops):
    graph = network(X, f"{Y}, bool[2,4,6,8] m", "v = Relu(x) y, m = Dropout(v)", **CONSTANTS)
    outcome = Canonicalize().run(graph)
    assert ops(graph) == ["Relu", "Dropout"]
    assert "another of its outputs" in outcome.skips[0].reason


def test_transposes_merge(network, rewrite, ops):
    graph = network(
        X,
        "float[2,8,4,6] y",
        "t = Transpose<perm=[0,2,3,1]>(x) y = Transpose<perm=[0,2,3,1]>(t)",
    )
    clean, _ = rewrite(graph, Canonicalize(), tolerance=0)
    assert ops(clean) == ["Transpose"]
    assert clean.nodes[0].attrs["perm"] == [0, 3, 1, 2]


def test_a_reshape_reads_from_before_another(network, rewrite, ops):
    graph = network(X, "float[2,4,8,6] y", "f = Flatten(x) y = Reshape(f, other)", **CONSTANTS)
    assert ops(rewrite(graph, Canonicalize(), tolerance=0)[0]) == ["Reshape"]


def test_constants_fold(network, rewrite, ops, normal):
    graph = network(
        X,
        Y,
        """k = Constant<value_float=2.0>() half = Constant<value = float {0.5}>()
           s = Add(k, half) t = Transpose<perm=[3,2,1,0]>(w) u = Mul(t, s) y = Conv(x, u)""",
        w=normal(1, 1, 4, 4),
    )
    clean, _ = rewrite(graph, Canonicalize())
    assert ops(clean) == ["Conv"]


def test_static_shapes_fold(network, rewrite, ops):
    graph = network(
        X,
        "float[2,192] y, float[2,4,6,8] z",
        """s = Shape(x) n = Size(x) i = Gather(s, start) r = Div(n, i) t = Concat<axis=0>(i, r)
           y = Reshape(x, t) e = Expand(one, s) z = Add(x, e)""",
        **CONSTANTS,
    )
    assert ops(rewrite(graph, Canonicalize(), tolerance=0)[0]) == ["Reshape", "Add"]


def test_known_extents_of_dynamic_shapes_fold(network, rewrite, ops):
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


def test_large_values_are_not_folded(network, rewrite, ops):
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


def test_quantized_weights_and_random_numbers_are_not_folded(network, ops):
    graph = network(
        X,
        f"{Y}, float[2] z",
        "w = DequantizeLinear(q, scale) y = Mul(x, w) z = RandomNormal<shape=[2]>()",
        q=np.int8(3),
        scale=np.float32(0.1),
    )
    assert not Canonicalize().run(graph).changes
    assert ops(graph) == ["DequantizeLinear", "Mul", "RandomNormal"]


def test_duplicates_and_equal_initializers(network, rewrite, ops, normal):
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


def test_duplicates_that_are_both_outputs_stay(network, rewrite, ops):
    graph = network(X, f"{Y}, float[2,4,6,8] z", "y = Relu(x) z = Relu(x)")
    clean, outcome = rewrite(graph, Canonicalize(), tolerance=0)
    assert ops(clean) == ["Relu", "Relu"]
    assert "both are outputs" in outcome.skips[0].reason


def test_attributes_make_a_difference(network, rewrite, ops):
    graph = network(
        X,
        Y,
        "a = LeakyRelu<alpha=0.1>(x) b = LeakyRelu<alpha=0.2>(x) y = Add(a, b)",
    )
    assert len(ops(rewrite(graph, Canonicalize(), tolerance=0)[0])) == 3


def test_dead_nodes_vanish(network, rewrite, ops, normal):
    graph = network(X, Y, "y = Relu(x) a = Sigmoid(x) b = Conv(a, w)", w=normal(4, 4, 1, 1))
    clean, outcome = rewrite(graph, Canonicalize())
    assert ops(clean) == ["Relu"]
    assert len(outcome.changes) == 2


def test_what_a_subgraph_reads_is_alive(network, rewrite, ops):
    graph = network(
        f"{X}, bool c",
        Y,
        """a = Identity(x) s = Sigmoid(a)
           y = If (c) <then_branch = g () => (float[2,4,6,8] p) { p = Relu(s) },
                       else_branch = h () => (float[2,4,6,8] q) { q = Neg(s) }>""",
    )
    clean, _ = rewrite(graph, Canonicalize(), tolerance=0)
    assert ops(clean) == ["Sigmoid", "If"]


def test_model_local_functions_are_not_unfolded(tmp_path, ops):
    """A function of constants may be how weights are packed: its result is not computed ahead."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "own": 1]>
           net (float[1,2,4,4] x) => (float[1,2,4,4] y)
           <float[2,2,1,1] w = {1, 2, 3, 4}> { v = own.unpack(w) y = Conv(x, v) }
           <domain: "own", opset_import: ["": 17]> unpack (w) => (v) { v = Add(w, w) }"""
    )
    onnx.save(model, tmp_path / "packed.onnx")
    graph = load_model(tmp_path / "packed.onnx")
    assert not Canonicalize().run(graph).changes
    assert ops(graph) == ["unpack", "Conv"]


def test_a_function_is_not_taken_for_the_operator_of_its_name(tmp_path, ops):
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
def test_trained_models_settle(request, name):
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
def test_padding_becomes_part_of_the_convolution(name, network, rewrite):
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
def test_padding_that_a_convolution_cannot_express_stays(body, network, rewrite):
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


def test_strings_are_left_alone(network):
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
