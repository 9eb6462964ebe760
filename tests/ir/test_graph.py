"""The vocabulary of pass authors."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from known import known, values_of
from small_networks import MakeGraph, MakeProto, Normal

from graphopt.analysis.latency.device import load_device
from graphopt.analysis.latency.predict import predict
from graphopt.errors import InputError
from graphopt.ir.convolution import Convolution
from graphopt.ir.edit import absorb, can_rewire, emit, live_nodes, remove_unread, rewire, sort_nodes
from graphopt.ir.graph import constant_of, only_consumer, scalar_of
from graphopt.ir.identity import IdentitySet
from graphopt.ir.onnx_io import load_model
from graphopt.ir.shape_inference import infer_shapes, refresh_shapes


@pytest.mark.parametrize("size", [(7, 8), (12, 9)])
@pytest.mark.parametrize(
    ("auto_pad", "geometry"),
    [
        *product(["SAME_UPPER", "SAME_LOWER"], ["[1,1] 1", "[2,2] 1", "[2,3] 1"]),
        *product(["VALID", "NOTSET"], ["[1,1] 1", "[2,3] 2"]),
    ],
)
def test_resolved_pads_are_what_onnxruntime_does(
    network: MakeGraph,
    proto: MakeProto,
    normal: Normal,
    size: tuple[int, int],
    auto_pad: str,
    geometry: str,
) -> None:
    strides, dilation = geometry.split()
    attrs = f"strides={strides}, dilations=[{dilation},{dilation}]"
    shapes = (f"float[1,2,{size[0]},{size[1]}] x", "float[1,3,H,W] y")
    weight = normal(3, 2, 4, 3)
    spec = Convolution.of(
        network(*shapes, f'y = Conv<{attrs}, auto_pad="{auto_pad}">(x, w)', w=weight).nodes[0]
    )
    assert (known(spec).in_channels, known(spec).out_channels, known(spec).kernel) == (2, 3, (4, 3))
    x = normal(1, 2, *size)
    results = []
    pads = f"pads={list(known(known(spec).pads))}"
    for padding in (f'auto_pad="{auto_pad}"', pads):
        model = proto(*shapes, f"y = Conv<{attrs}, {padding}>(x, w)", w=weight)
        session = ort.InferenceSession(model.SerializeToString())
        results.append(session.run(None, {"x": x})[0])
    assert np.allclose(results[0], results[1], atol=1e-5)


def test_pads_that_depend_on_an_unknown_size(network: MakeGraph, normal: Normal) -> None:
    args = ("float[1,2,H,W] x", "float[1,3,A,B] y")
    strided = 'y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)'
    plain = 'y = Conv<auto_pad="SAME_UPPER">(x, w)'
    assert (
        known(Convolution.of(network(*args, strided, w=normal(3, 2, 3, 3)).nodes[0])).pads is None
    )
    spec = Convolution.of(network(*args, plain, w=normal(3, 2, 3, 3)).nodes[0])
    assert known(spec).pads == (1, 1, 1, 1)


def test_conv_spec_of_other_things(network: MakeGraph, normal: Normal) -> None:
    graph = network(
        "float[1,4,8,8] x, float[4] b",
        "float[1,4,8,8] y, float[1,6,H,W] t",
        "c = Conv(x, w, b) y = Relu(x) t = ConvTranspose<group=2, strides=[2,2]>(x, v)",
        w=normal(4, 4, 1, 1),
        v=normal(4, 3, 2, 2),
    )
    conv, relu, transposed = graph.nodes
    assert Convolution.of(conv) is None  # its bias is not constant
    assert Convolution.of(relu) is None
    spec = Convolution.of(transposed)
    assert (
        known(spec).in_channels,
        known(spec).out_channels,
        known(spec).group,
        known(spec).depthwise,
    ) == (4, 6, 2, False)


def test_constants_and_consumers(network: MakeGraph) -> None:
    graph = network(
        "float[4] x",
        "float[4] y, float[4] z",
        "a = Mul(x, k) y = Relu(a) s = Sigmoid(y) z = Add(s, s)",
        k=np.array([2], np.float32),
    )
    tensors = graph.tensors()
    assert scalar_of(tensors["k"]) == 2
    assert constant_of(tensors["x"]) is None
    assert known(only_consumer(graph, tensors["a"])).op == "Relu"
    assert only_consumer(graph, tensors["y"]) is None  # an output of the network
    assert only_consumer(graph, tensors["s"]) is None  # read twice


def test_emit_names_are_free_and_numbers_take_the_tensors_type(network: MakeGraph) -> None:
    graph = network("float16[4] x", "float16[4] y", "y = Relu(x)")
    x = graph.inputs[0]
    first = emit(graph, "Clip", x, 0.0, 6.0, out="y")
    second = emit(graph, "Clip", x, None, 6.0, out="y")
    names = list(graph.tensors())
    assert len(names) == len(set(names))
    assert {first.name, second.name} == {"y_1", "y_2"}
    assert all(values_of(t).dtype == np.float16 for t in graph.nodes[1].inputs[1:])
    assert graph.nodes[2].inputs[1].is_empty()


def test_rewire_inner_and_outer(network: MakeGraph) -> None:
    graph = network(
        "float[4] x", "float[4] y", "a = Relu(x) b = Identity(a) s = Neg(b) y = Identity(s)"
    )
    _, inner, neg, last = graph.nodes
    tensors = graph.tensors()
    rewire(graph, tensors["b"], tensors["a"])
    assert neg.inputs[0] is tensors["a"]
    rewire(graph, tensors["y"], tensors["s"])
    assert neg.outputs[0] is graph.outputs[0]
    assert not can_rewire(graph, tensors["y"], tensors["x"])
    remove_unread(graph, [inner, last])
    assert [n.op for n in graph.nodes] == ["Relu", "Neg"]


def test_absorb_keeps_the_later_name(network: MakeGraph) -> None:
    graph = network("float[4] x", "float[4] y", "a = Neg(x) y = Relu(a)")
    absorb(graph, *graph.nodes)
    assert [(n.op, n.outputs[0].name) for n in graph.nodes] == [("Neg", "y")]


def test_sorting_is_stable_and_finds_cycles(network: MakeGraph) -> None:
    graph = network(
        "float[4] x", "float[4] y", "a = Neg(x) b = Relu(x) c = Abs(x) y = Sum(a, b, c)"
    )
    tensors = graph.tensors()
    emit(graph, "Exp", tensors["a"], out="late")
    graph.nodes[2].inputs[0] = graph.nodes[-1].outputs[0]
    sort_nodes(graph)
    assert [n.op for n in graph.nodes] == ["Neg", "Relu", "Exp", "Abs", "Sum"]
    graph.nodes[0].inputs[0] = tensors["c"]
    with pytest.raises(InputError, match="cycle"):
        sort_nodes(graph)


def test_sorting_a_very_long_chain_backwards(network: MakeGraph) -> None:
    graph = network("float[4] x", "float[4] y", "a = Neg(x) y = Relu(a)")
    tensor = graph.tensors()["a"]
    for _ in range(3000):
        node = graph.nodes[0].__class__("Neg", inputs=[tensor], outputs=[gs.Variable(f"t{_}")])
        graph.nodes.insert(0, node)
        tensor = node.outputs[0]
    sort_nodes(graph)
    assert graph.nodes[0].outputs[0].name == "a"


def test_refreshed_shapes_do_not_depend_on_weights_values(
    network: MakeGraph, normal: Normal
) -> None:
    graph = network(
        "float[1,64,8,8] x",
        "float[1,64,8,8] y",
        "c = Conv(x, w) y = Relu(c)",
        w=normal(64, 64, 1, 1),
    )
    graph.tensors()["c"].shape = None
    refresh_shapes(graph)
    assert graph.tensors()["c"].shape == [1, 64, 8, 8]
    assert values_of(graph.tensors()["w"]).shape == (64, 64, 1, 1)


def test_live_nodes(network: MakeGraph) -> None:
    graph = network("float[4] x", "float[4] y", "y = Relu(x) a = Neg(x) b = Abs(a)")
    assert live_nodes(graph) == IdentitySet([graph.nodes[0]])


def test_the_proto_is_valid(network: MakeGraph) -> None:
    from graphopt.ir.onnx_io import to_proto

    graph = network("float[4] x", "float[4] y", "a = Neg(x) y = Relu(a)")
    emit(graph, "Abs", graph.inputs[0], out="unread")
    onnx.checker.check_model(to_proto(graph), full_check=True)


# --- shapes that ONNX has no rule for -------------------------------------------------------------

X = "float[1,3,10,12] x"
UNRULED = {
    "a later opset's function": (21, "b = GroupNormalization<num_groups=2>(a, g, h)"),
    "another domain": (17, "b = com.microsoft.QuickGelu(a)"),
    "one after the other": (
        17,
        "c = com.microsoft.QuickGelu(a) d = Relu(c) b = com.microsoft.QuickGelu(d)",
    ),
}


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "not declared"])
@pytest.mark.parametrize(("opset", "body"), UNRULED.values(), ids=UNRULED)
def test_operators_without_a_shape_rule(
    proto: MakeProto, normal: Normal, tmp_path: Path, opset: int, body: str, declared: bool
) -> None:
    size = "1,8,10,12" if declared else "N,M,P,Q"
    model = proto(
        X,
        f"float[{size}] y",
        f"a = Conv<pads=[1,1,1,1]>(x, w) {body} y = PRelu(b, s)",
        opset=opset,
        w=normal(8, 3, 3, 3),
        g=normal(8),
        h=normal(8),
        s=normal(8, 1, 1),
    )
    onnx.save(model, tmp_path / "m.onnx")
    for shapes in (None, {"x": (1, 3, 10, 12)}):
        graph = load_model(tmp_path / "m.onnx", shapes)
        tensors = graph.tensors()
        assert tuple(tensors["b"].shape) == (1, 8, 10, 12)
        assert tensors["b"].dtype == np.float32
        assert infer_shapes(graph)["y"][1] == (1, 8, 10, 12)
        predict(graph, load_device("adreno-640"))  # every shape that a time depends on is known


def test_what_the_exporter_says_of_a_tensor(proto: MakeProto, tmp_path: Path) -> None:
    """Nothing can be inferred of a Reshape to computed extents; the file knows them."""
    model = proto("float[1,8] x, int64[3] s", "float[1,2,4] y", "b = Reshape(x, s) y = Relu(b)")
    info = onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [1, 2, 4])
    for said in (False, True):
        if said:
            model.graph.value_info.append(info)
        onnx.save(model, tmp_path / "m.onnx")
        graph = load_model(tmp_path / "m.onnx")
        assert (infer_shapes(graph)["b"][1] == (1, 2, 4)) == said
    assert infer_shapes(graph, {"x": (1, 8)})["b"][1] == (1, 2, 4)
    # It says nothing at another size.
    assert infer_shapes(graph, {"x": (2, 8)}).get("b", (None, None))[1] != (1, 2, 4)


def test_extents_that_an_operator_without_a_rule_passes_on(
    proto: MakeProto, tmp_path: Path
) -> None:
    model = proto(
        "float[1,3,H,W] x", "float[1,3,H,W] y", "b = com.microsoft.QuickGelu(x) y = Neg(b)"
    )
    onnx.save(model, tmp_path / "m.onnx")
    graph = load_model(tmp_path / "m.onnx")
    assert infer_shapes(graph)["b"][1] == (1, 3, "H", "W")
    assert infer_shapes(graph, {"x": (1, 3, 8, 16)})["b"][1] == (1, 3, 8, 16)


def test_shapes_that_do_not_fit_an_operator_beside_one_without_a_rule(
    proto: MakeProto, normal: Normal, tmp_path: Path
) -> None:
    body = "b = com.microsoft.QuickGelu(x) y = Add(b, k)"
    model = proto("float[1,C,8,8] x", "float[1,3,8,8] y", body, k=normal(3, 1, 1))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="shapes do not fit"):
        load_model(tmp_path / "m.onnx", {"x": (1, 5, 8, 8)})
