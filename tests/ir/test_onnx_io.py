"""ONNX files in and out: what survives the trip, and what bad files are told."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from known import constant_in, values_of
from small_networks import MakeProto, Normal

from graphopt.errors import InputError, Unsupported
from graphopt.ir import onnx_io as model_module
from graphopt.ir.input_shapes import parse_input_shapes
from graphopt.ir.onnx_io import load_model, save_model, to_proto
from graphopt.runtime.engine import OnnxRuntimeEngine

CONV = ("float[N,3,H,W] x", "float[N,4,Ho,Wo] y", "y = Conv<pads=[1,1,1,1]>(x, w)")


@pytest.fixture
def conv(proto: MakeProto, normal: Normal) -> onnx.ModelProto:
    return proto(*CONV, w=normal(4, 3, 3, 3))


@pytest.fixture
def saved(conv: onnx.ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "conv.onnx"
    onnx.save(conv, path)
    return path


def test_header_and_metadata_survive(conv: onnx.ModelProto, tmp_path: Path) -> None:
    conv.producer_name, conv.producer_version = "trainer", "1.2"
    conv.domain, conv.model_version, conv.doc_string = "org.pose", 7, "a network"
    conv.graph.doc_string = "a graph"
    onnx.helper.set_model_props(conv, {"author": "someone"})
    onnx.save(conv, tmp_path / "in.onnx")
    graph = load_model(tmp_path / "in.onnx")
    save_model(graph, tmp_path / "out.onnx", metadata={"graphopt.pipeline": "none"})
    out = onnx.load(tmp_path / "out.onnx")
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(out, name) == getattr(conv, name), name
    assert out.graph.doc_string == "a graph"
    assert {p.key: p.value for p in out.metadata_props} == {
        "author": "someone",
        "graphopt.pipeline": "none",
    }
    assert [d.dim_param for d in out.graph.input[0].type.tensor_type.shape.dim] == [
        "N",
        "",
        "H",
        "W",
    ]


FUNCTIONS = {
    "one": (
        "y = own.twice(x)",
        "<domain: 'own', opset_import: ['': 17]> twice (a) => (b) { b = Add(a, a) }",
    ),
    "one in another": (
        "y = own.four(x)",
        "<domain: 'own', opset_import: ['': 17, 'own': 1]> four (a) => (c) "
        "{ b = own.twice(a) c = own.twice(b) }"
        "<domain: 'own', opset_import: ['': 17]> twice (a) => (b) { b = Add(a, a) }",
    ),
    "with an attribute, in a branch": (
        "k = Constant<value = bool {1}>() y = If<then_branch = t () => (float[1,2] o) "
        "{ o = own.leaky<slope = 0.5>(x) }, else_branch = e () => (float[1,2] o) "
        "{ o = own.leaky<slope = 0.1>(x) }>(k)",
        "<domain: 'own', opset_import: ['': 17]> leaky <slope> (a) => (b) "
        "{ b = LeakyRelu<alpha: float = @slope>(a) }",
    ),
}


@pytest.mark.parametrize(("body", "functions"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_model_local_functions_are_inlined(tmp_path: Path, body: str, functions: str) -> None:
    head = '<ir_version: 8, opset_import: ["": 17, "own": 1]> net (float[1,2] x) => (float[1,2] y)'
    model = onnx.parser.parse_model(f"{head} {{ {body} }}" + functions.replace("'", '"'))
    onnx.save(model, tmp_path / "in.onnx")
    save_model(load_model(tmp_path / "in.onnx"), tmp_path / "out.onnx")
    out = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(out, full_check=True)
    assert not out.functions
    feeds = {"x": np.array([[-1.0, 3.0]], np.float32)}
    values = [OnnxRuntimeEngine(m.SerializeToString()).run(feeds)["y"] for m in (model, out)]
    assert np.array_equal(values[0], values[1])


@pytest.mark.parametrize("everywhere", [True, False], ids=["everywhere", "in the header"])
def test_the_standard_domain_spelled_out(
    conv: onnx.ModelProto, saved: Path, everywhere: bool
) -> None:
    conv.opset_import[0].domain = "ai.onnx"
    if everywhere:
        conv.graph.node[0].domain = "ai.onnx"
    onnx.save(conv, saved)
    save_model(load_model(saved), saved.with_name("out.onnx"))
    out = onnx.load(saved.with_name("out.onnx"))
    assert {node.domain for node in out.graph.node} == {""}
    assert [o.version for o in out.opset_import if o.domain in ("", "ai.onnx")] == [17]


def test_two_opsets(conv: onnx.ModelProto, saved: Path) -> None:
    conv.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 13))
    onnx.save(conv, saved)
    with pytest.raises(InputError, match="names two ONNX opsets: 13 and 17"):
        load_model(saved)


UNSORTED = {
    "a chain": "y = Neg(b) b = Relu(a) a = Sigmoid(x)",
    "a diamond": "y = Add(b, c) c = Relu(a) b = Neg(a) a = Sigmoid(x)",
    "what a branch reads": "y = If<then_branch = t () => (float[2] o) { o = Neg(p) p = Relu(a) },"
    " else_branch = e () => (float[2] o) { o = Identity(a) }>(k) a = Sigmoid(x)",
}


@pytest.mark.parametrize("body", UNSORTED.values(), ids=UNSORTED)
def test_nodes_that_are_not_in_order(proto: MakeProto, tmp_path: Path, body: str) -> None:
    onnx.save(proto("float[2] x", "float[2] y", body, k=np.bool_(True)), tmp_path / "m.onnx")
    graph = load_model(tmp_path / "m.onnx")
    onnx.checker.check_model(to_proto(graph), full_check=True)
    assert graph.nodes[-1].outputs[0].name == "y"


def test_nodes_that_wait_for_each_other(proto: MakeProto, tmp_path: Path) -> None:
    onnx.save(proto("float[2] x", "float[2] y", "y = Add(x, b) b = Neg(y)"), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="the graph has a cycle"):
        load_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("outputs", ["float[2] k, float[1,4,16,24] y", "float[2] k, float[2] l"])
def test_a_constant_as_an_output(
    proto: MakeProto, normal: Normal, tmp_path: Path, outputs: str
) -> None:
    model = proto(
        "float[1,3,H,W] x",
        outputs,
        "y = Conv<pads=[1,1,1,1]>(x, w)",
        w=normal(4, 3, 3, 3),
        k=normal(2),
        l=normal(2),
    )
    onnx.save(model, tmp_path / "m.onnx")
    graph = load_model(tmp_path / "m.onnx", {"x": (1, 3, 16, 24)})
    out = to_proto(graph).SerializeToString()
    feeds = {"x": normal(1, 3, 16, 24)}
    values = [OnnxRuntimeEngine(m).run(feeds) for m in (model.SerializeToString(), out)]
    assert list(values[0]) == list(values[1])
    assert all(np.array_equal(values[0][name], values[1][name]) for name in values[0])


@pytest.mark.parametrize("opset", [11, 12, 13, 14, 15, 17, 21])
def test_opsets(proto: MakeProto, normal: Normal, tmp_path: Path, opset: int) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(proto(*CONV, opset=opset, w=normal(4, 3, 3, 3)), path)
    assert load_model(path).opset == opset


def test_initializers_that_are_inputs_become_constants(conv: onnx.ModelProto, saved: Path) -> None:
    value = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 3, 3, 3])
    conv.graph.input.append(value)
    conv.ir_version = 3
    onnx.save(conv, saved)
    graph = load_model(saved)
    assert [t.name for t in graph.inputs] == ["x"]
    save_model(graph, saved.with_name("out.onnx"))
    onnx.checker.check_model(onnx.load(saved.with_name("out.onnx")), full_check=True)


@pytest.mark.parametrize("name", ["x", ""])
def test_input_shape_is_fixed_and_followed(saved: Path, name: str) -> None:
    graph = load_model(saved, {name: (1, 3, 16, 24)})
    assert graph.inputs[0].shape == [1, 3, 16, 24]
    assert graph.outputs[0].shape == [1, 4, 16, 24]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": (1, 3, 16)}, "has 4 dimensions, but 1x3x16 has 3"),
        ({"x": (1, 4, 16, 24)}, "is fixed at Nx3xHxW; it cannot be 1x4x16x24"),
        ({"image": (1, 3, 16, 24)}, "no input 'image'"),
    ],
)
def test_input_shapes_that_do_not_fit(
    saved: Path, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_model(saved, shapes)


def test_a_size_that_an_operator_rejects(proto: MakeProto, normal: Normal, tmp_path: Path) -> None:
    onnx.save(
        proto("float[1,C,8,8] x", "float[1,3,8,8] y", "y = Add(x, k)", k=normal(3, 1, 1)),
        tmp_path / "m.onnx",
    )
    with pytest.raises(InputError, match="shapes do not fit"):
        load_model(tmp_path / "m.onnx", {"x": (1, 5, 8, 8)})


def test_parsing_input_shapes() -> None:
    assert parse_input_shapes(["image:0:1,3,368,656", "1x3x8x8"]) == {
        "image:0": (1, 3, 368, 656),
        "": (1, 3, 8, 8),
    }
    for text in ("x:", "x:1,three", "x:1,0,2", "x:-1,3"):
        with pytest.raises(InputError, match="is not an input shape"):
            parse_input_shapes([text])


# --- bad files ----------------------------------------------------------------------------------


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_model(tmp_path / "none.onnx")


@pytest.mark.parametrize("content", [b"", b"GIF89a not a network at all", b"\x08\x08", bytes(100)])
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not an? (whole )?ONNX model"):
        load_model(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_truncated(saved: Path, part: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError):
        load_model(saved)


@pytest.mark.parametrize("opset", [10, 7])
def test_old_opset(conv: onnx.ModelProto, saved: Path, opset: int) -> None:
    conv.opset_import[0].version = opset
    onnx.save(conv, saved)
    with pytest.raises(Unsupported, match=f"opset {opset}; the oldest supported is 11"):
        load_model(saved)


def test_an_opset_from_the_future(conv: onnx.ModelProto, saved: Path) -> None:
    conv.opset_import[0].version = 999
    onnx.save(conv, saved)
    with pytest.raises(Unsupported, match=f"the newest that onnxruntime {onnxruntime.__version__}"):
        load_model(saved)


@pytest.mark.parametrize(("domain", "op"), [("", "Cnov"), ("org.custom", "Conv")])
def test_unknown_operator(conv: onnx.ModelProto, saved: Path, domain: str, op: str) -> None:
    conv.graph.node[0].domain, conv.graph.node[0].op_type = domain, op
    conv.opset_import.append(onnx.helper.make_opsetid("org.custom", 1))
    onnx.save(conv, saved)
    with pytest.raises(Unsupported, match=f"{op}, which neither ONNX nor the model defines"):
        load_model(saved)


def test_invalid_graph(conv: onnx.ModelProto, saved: Path) -> None:
    conv.graph.node[0].input[0] = "nothing"
    onnx.save(conv, saved)
    with pytest.raises(InputError, match="not a valid ONNX model"):
        load_model(saved)


def test_attributes_that_would_be_lost(conv: onnx.ModelProto, saved: Path) -> None:
    sparse = onnx.helper.make_sparse_tensor(
        onnx.helper.make_tensor("v", onnx.TensorProto.FLOAT, [1], [1.0]),
        onnx.helper.make_tensor("i", onnx.TensorProto.INT64, [1], [2]),
        [4],
    )
    conv.graph.node.append(onnx.helper.make_node("Constant", [], ["k"], sparse_value=sparse))
    onnx.save(conv, saved)
    with pytest.raises(Unsupported, match="sparse_value of Constant is a SPARSE_TENSOR"):
        load_model(saved)


# --- external data ------------------------------------------------------------------------------


@pytest.fixture
def external(conv: onnx.ModelProto, tmp_path: Path) -> Path:
    path, outside = tmp_path / "ext.onnx", onnx.ModelProto()
    outside.CopyFrom(conv)
    onnx.save(outside, path, save_as_external_data=True, location="ext.weights", size_threshold=0)
    return path


def test_external_data_is_read(external: Path) -> None:
    graph = load_model(external)
    weight = onnx.numpy_helper.to_array(onnx.load(external).graph.initializer[0])
    assert np.array_equal(values_of(graph.tensors()["w"]), weight)


def test_external_data_is_missing(external: Path) -> None:
    external.with_name("ext.weights").unlink()
    with pytest.raises(InputError, match=r"keeps its weights in ext\.weights, which is not beside"):
        load_model(external)


def test_external_data_is_short(external: Path) -> None:
    data = external.with_name("ext.weights")
    data.write_bytes(data.read_bytes()[:50])
    with pytest.raises(InputError, match=r"ext\.weights is too short"):
        load_model(external)


@pytest.fixture
def cached(external: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The same as the Hugging Face cache keeps it: (the model, where its weights are)."""
    repository = tmp_path / "hub" / "models--org--net"
    snapshot = repository / "snapshots" / "0123abc" / "onnx"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate((external, external.with_name("ext.weights"))):
        blob = repository / "blobs" / f"{number:064x}"
        file.rename(blob)
        (snapshot / file.name).symlink_to(Path("../../../blobs") / blob.name)
    return snapshot / external.name, snapshot / "ext.weights"


def test_external_data_in_the_hugging_face_cache(
    cached: tuple[Path, Path], conv: onnx.ModelProto
) -> None:
    path, _ = cached
    graph = load_model(path)
    expected = onnx.numpy_helper.to_array(conv.graph.initializer[0])
    assert np.array_equal(values_of(graph.tensors()["w"]), expected)


def test_external_data_behind_a_hard_link(external: Path, conv: onnx.ModelProto) -> None:
    external.with_name("other").hardlink_to(external.with_name("ext.weights"))
    expected = onnx.numpy_helper.to_array(conv.graph.initializer[0])
    assert np.array_equal(values_of(load_model(external).tensors()["w"]), expected)


def test_external_data_behind_a_link_in_the_folder(external: Path, conv: onnx.ModelProto) -> None:
    data = external.with_name("ext.weights")
    (external.parent / "weights").mkdir()
    data.rename(external.parent / "weights" / "0")
    data.symlink_to(Path("weights") / "0")
    expected = onnx.numpy_helper.to_array(conv.graph.initializer[0])
    assert np.array_equal(values_of(load_model(external).tensors()["w"]), expected)


def test_a_model_that_is_itself_a_link(
    external: Path, conv: onnx.ModelProto, tmp_path: Path
) -> None:
    link = tmp_path / "elsewhere" / "net.onnx"
    link.parent.mkdir()
    link.symlink_to(external)
    expected = onnx.numpy_helper.to_array(conv.graph.initializer[0])
    assert np.array_equal(values_of(load_model(link).tensors()["w"]), expected)


def test_links_that_lead_outside(
    external: Path, cached: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, data = cached
    outside = tmp_path_factory.mktemp("outside") / "secret"
    outside.write_bytes(data.read_bytes())
    data.unlink()
    for target in (outside, tmp_path_factory.mktemp("x") / "again"):
        if target is not outside:
            target.symlink_to(outside)  # a link to a link
        data.symlink_to(target)
        with pytest.raises(InputError, match=r"leads outside the model's folder, to .*secret"):
            load_model(path)
        data.unlink()


@pytest.mark.parametrize("location", ["../ext.weights", "/etc/hostname", "a/../../ext.weights", ""])
def test_external_data_that_is_named_outside(external: Path, location: str) -> None:
    model = onnx.load(external, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    external.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="which is not a place beside it"):
        load_model(external)


@pytest.mark.parametrize(
    ("key", "value"), [("offset", "-1"), ("length", "1000000"), ("offset", "x")]
)
def test_external_data_with_wrong_numbers(external: Path, key: str, value: str) -> None:
    model = onnx.load(external, load_external_data=False)
    data = model.graph.initializer[0].external_data
    kept = [(entry.key, entry.value) for entry in data if entry.key != key]
    del data[:]
    for name, text in [*kept, (key, value)]:
        data.add(key=name, value=text)
    external.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"is too short|is damaged"):
        load_model(external)


def test_weights_past_the_limit_go_beside_the_model(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "INLINE_LIMIT", 100)
    graph = load_model(saved)
    out = tmp_path / "new" / "big.onnx"
    constant_in(graph.tensors()["w"]).values = np.arange(4 * 3 * 300, dtype=np.float32).reshape(
        4, 3, 30, 10
    )
    save_model(graph, out)
    assert sorted(p.name for p in out.parent.iterdir()) == ["big.onnx", "big.onnx.data"]
    again = load_model(out)
    assert np.array_equal(values_of(again.tensors()["w"]), values_of(graph.tensors()["w"]))
    with pytest.raises(InputError, match="which the input is read from"):
        save_model(again, out)


# --- bad disks ----------------------------------------------------------------------------------


def test_a_full_disk_leaves_nothing(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sub" / "out.onnx"
    out.parent.mkdir()
    out.write_text("what was there before")
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        real(self, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    graph = load_model(saved)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"out\.onnx cannot be written: No space left"):
        save_model(graph, out)
    assert [p.name for p in out.parent.iterdir()] == ["out.onnx"]
    assert out.read_text() == "what was there before"


def test_a_folder_that_cannot_be(saved: Path, tmp_path: Path) -> None:
    graph = load_model(saved)
    for out in (saved / "out.onnx", Path("/proc/none/out.onnx")):
        with pytest.raises(InputError, match="cannot be written"):
            save_model(graph, out)


def test_types_of_sequences_survive(proto: MakeProto, tmp_path: Path) -> None:
    model = proto("float[2,3] x", "seq(float[1,3]) y", "y = SplitToSequence(x)")
    onnx.save(model, tmp_path / "in.onnx")
    save_model(load_model(tmp_path / "in.onnx"), tmp_path / "out.onnx")
    out = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(out, full_check=True)
    assert out.graph.output[0].type == model.graph.output[0].type


def test_types_that_would_be_lost(proto: MakeProto, tmp_path: Path) -> None:
    model = proto("optional(float[2]) x", "float[2] y", "y = OptionalGetElement(x)")
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(Unsupported, match="x is not a tensor but of optional type"):
        load_model(tmp_path / "m.onnx")
