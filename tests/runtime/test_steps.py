"""Quantised networks are judged by how many values differ: ties pass, faults of kernels do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from graphopt.compiler.comparison import agreement_with_onnxruntime
from graphopt.ir.arrays import Array, Feeds
from graphopt.ir.conversion import import_message
from graphopt.runtime.differences import Agreement
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.sample_inputs import sample_feeds
from graphopt.runtime.steps import is_quantised, steps_of

Proto = Callable[..., onnx.ModelProto]
BODY = """
    q0 = QuantizeLinear(x, s0, z0) d0 = DequantizeLinear(q0, s0, z0)
    f1 = DequantizeLinear<axis=0>(w1, ws1)
    c1 = Conv<pads=[1,1,1,1]>(d0, f1, b1)
    r1 = Relu(c1)
    q1 = QuantizeLinear(r1, s1, z1) d1 = DequantizeLinear(q1, s1, z1)
    f2 = DequantizeLinear<axis=0>(w2, ws2)
    c2 = Conv<pads=[1,1,1,1]>(d1, f2, b2)
    q2 = QuantizeLinear(c2, s2, z2) d2 = DequantizeLinear(q2, s2, z2)
    f3 = DequantizeLinear<axis=0>(w3, ws3)
    c3 = Conv<pads=[1,1,1,1]>(d2, f3, b3)
    q3 = QuantizeLinear(c3, s3, z3) y = DequantizeLinear(q3, s3, z3)"""


def constants() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    sizes = {1: (16, 3), 2: (16, 16), 3: (19, 16)}
    return {
        **{f"w{n}": rng.integers(-127, 128, (*c, 3, 3)).astype(np.int8) for n, c in sizes.items()},
        **{f"ws{n}": rng.uniform(1e-3, 3e-3, c[0]).astype(np.float32) for n, c in sizes.items()},
        **{f"b{n}": rng.standard_normal(c[0]).astype(np.float32) for n, c in sizes.items()},
        "s0": np.float32(1.0),
        "z0": np.uint8(0),
        "s1": np.float32(2.0),
        "z1": np.uint8(0),
        "s2": np.float32(5.0),
        "z2": np.uint8(125),
        "s3": np.float32(8.0),
        "z3": np.uint8(130),
    }


@pytest.fixture
def network(proto: Proto) -> onnx.ModelProto:
    return proto("float[1,3,32,40] x", "float[1,19,32,40] y", BODY, **constants())


def judged(network: onnx.ModelProto, run: Callable[[Feeds], Feeds]) -> Agreement:
    """What is said of an engine that should compute a network."""
    graph = import_message(network)
    shapes = {tensor.name: tuple(tensor.shape) for tensor in graph.inputs}
    feeds = sample_feeds(graph, shapes)
    outputs = [[run(feed)] for feed in feeds]
    return agreement_with_onnxruntime(graph, [[feed] for feed in feeds], outputs)


def engine(model: onnx.ModelProto, *, optimize: bool = False) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(model.SerializeToString(), optimize=optimize)


def changed(model: onnx.ModelProto, name: str, change: Callable[[Array], Array]) -> onnx.ModelProto:
    """The network with another constant."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name == name:
            value = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(change(value.copy()).astype(value.dtype), name))
    return result


def before(model: onnx.ModelProto, tensor: str, lines: str, **values: Array) -> onnx.ModelProto:
    """The network, in which `lines` make `tensor` of `t`."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        for i, name in enumerate(node.output):
            if name == tensor:
                node.output[i] = "t"
    body = onnx.parser.parse_graph(f"g (float[1] t) => (float[1] {tensor}) {{ {lines} }}")
    at = next(i for i, n in enumerate(result.graph.node) if "t" in n.output)
    for offset, node in enumerate(body.node):
        result.graph.node.insert(at + 1 + offset, node)
    for name, value in values.items():
        result.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return result


def channel(index: int, factor: float) -> Callable[[Array], Array]:
    def change(value: Array) -> Array:
        value[index] = (
            np.trunc(value[index] * factor) if value.dtype == np.int8 else value[index] * factor
        )
        return value

    return change


@pytest.mark.parametrize("optimize", [False, True])
def test_onnxruntimes_own_answers_agree(network: onnx.ModelProto, optimize: bool) -> None:
    found = judged(network, engine(network, optimize=optimize).run)
    assert found.excess is None
    assert found.difference <= 3 / 255
    assert "by a step of quantisation" in found.within


def test_other_rounding_of_sums_agrees(network: onnx.ModelProto) -> None:
    """Sums that differ as those of another kernel do: by a millionth."""
    for tensor in ("c1", "c2", "c3"):
        scale = 1 + 3e-6 * np.random.default_rng(0).standard_normal((1, 1, 32, 40))
        rounded = before(network, tensor, f"{tensor} = Mul(t, k)", k=scale.astype(np.float32))
        assert judged(network, engine(rounded).run).excess is None


FAULTS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "sums are cut off rather than rounded": lambda m: before(
        m, "c3", "c3 = Sub(t, k)", k=np.float32(4.0)
    ),
    "an inner layer cuts off": lambda m: before(m, "c2", "c2 = Sub(t, k)", k=np.float32(2.5)),
    "a quarter of a step is lost": lambda m: before(m, "c3", "c3 = Sub(t, k)", k=np.float32(2.0)),
    "a zero is one off": lambda m: before(m, "d2", "d2 = Sub(t, k)", k=np.float32(5.0)),
    "one channel lacks its bias": lambda m: changed(m, "b3", lambda b: b - 30 * np.eye(19)[7]),
    "one inner channel has no bias": lambda m: changed(m, "b2", lambda b: b - 60 * np.eye(16)[3]),
    "one inner channel has another's scale": lambda m: changed(m, "ws2", channel(15, 1.5)),
    "one channel has another's scale": lambda m: changed(m, "ws3", channel(18, 1.1)),
    "weights lose their lowest bit": lambda m: changed(m, "w2", lambda w: np.bitwise_and(w, ~1)),
    "one row is that above": lambda m: before(
        m,
        "c3",
        "a = Slice(t, p, r, o) l = Slice(t, v, r, o) c3 = Concat<axis=2>(a, l)",
        **{k: np.array([n], np.int64) for k, n in {"p": 0, "r": 31, "o": 2, "v": 30}.items()},
    ),
    "one column is zero": lambda m: before(
        m, "c3", "c3 = Mul(t, k)", k=(np.arange(40) != 39).astype(np.float32)
    ),
    "one inner channel is zero": lambda m: changed(m, "w2", channel(5, 0.0)),
    "inner values saturate at 127": lambda m: before(
        m, "r1", "r1 = Min(t, k)", k=np.float32(2.0 * 127)
    ),
    "padding is no zero": lambda m: before(
        m,
        "c2",
        "c2 = Add(t, k)",
        k=np.pad(np.zeros((30, 38)), 1, constant_values=20).astype(np.float32),
    ),
    "a lane in sixteen is wrong": lambda m: before(
        m, "c1", "c1 = Mul(t, k)", k=np.where(np.arange(40) % 16 == 15, 1.2, 1).astype(np.float32)
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_kernels_fault_is_caught(name: str, network: onnx.ModelProto) -> None:
    found = judged(network, engine(FAULTS[name](network)).run)
    assert found.excess, found


VALUES: dict[str, tuple[Callable[[Array], Array], bool]] = {
    "the same": (lambda y: y, True),
    "one value in a thousand, by a step": (
        lambda y: y + 8 * (np.arange(y.size).reshape(y.shape) % 1000 == 3),
        True,
    ),
    "one value, far away": (
        lambda y: y + 8 * 40 * (np.arange(y.size).reshape(y.shape) == 77),
        False,
    ),
    "one value wraps around": (
        lambda y: y - 8 * 256 * (np.arange(y.size).reshape(y.shape) == 77),
        False,
    ),
    "one value is none": (
        lambda y: np.where(np.arange(y.size).reshape(y.shape) == 77, np.nan, y),
        False,
    ),
    "another shape": (lambda y: y[:, :, 1:], False),
    "every tenth, by a step": (
        lambda y: y + 8 * (np.arange(y.size).reshape(y.shape) % 10 == 0),
        False,
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_are_counted(name: str, network: onnx.ModelProto) -> None:
    change, agrees = VALUES[name]
    run = engine(network).run
    found = judged(network, lambda feed: {"y": change(run(feed)["y"]).astype(np.float32)})
    assert (found.excess is None) == agrees, found


def test_a_range_of_two_steps_is_no_yardstick(network: onnx.ModelProto) -> None:
    dark = changed(network, "s3", lambda s: s * 400)
    run = engine(dark).run

    def ties(feed: Feeds) -> Feeds:
        y = run(feed)["y"]
        return {"y": y + np.float32(3200) * (np.arange(y.size).reshape(y.shape) % 500 == 3)}

    found = judged(dark, ties)
    assert found.excess is None
    assert found.difference < 0.01


def test_what_is_quantised_and_by_how_much(proto: Proto) -> None:
    values = {"s": np.float32(0.5), "z": np.int16(3), "w": np.ones((4, 3, 1, 1), np.int8)}
    model = proto(
        "float[1,3,8,8] x",
        "uint8[1,3,8,8] q, float[1,3,64] y, float[1,3,8,8] v",
        """q = QuantizeLinear(x, s) i = QuantizeLinear(x, s, z) d = DequantizeLinear(i, s, z)
           y = Reshape(d, k) v = Sin(d)""",
        opset=21,
        k=np.array([1, 3, 64], np.int64),
        s=values["s"],
        z=values["z"],
    )
    graph = import_message(model)
    assert is_quantised(graph)
    assert steps_of(graph) == {
        "q": (1.0, 255),
        "y": (pytest.approx(0.5 * 65.535), 1000),
        "v": (None, 255),
    }
    weights_only = proto(
        "float[1,3,8,8] x",
        "float[1,4,8,8] y",
        "f = DequantizeLinear(w, s) y = Conv(x, f)",
        w=values["w"],
        s=values["s"],
    )
    assert not is_quantised(import_message(weights_only))
    assert isinstance(graph, gs.Graph)
