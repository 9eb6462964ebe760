"""Whole networks through the compiler, compared with onnxruntime, on every target."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.errors import GraphoptError
from graphopt.ir.arrays import Array
from graphopt.ir.block_structure import Block, expand

Proto = Callable[..., onnx.ModelProto]
TARGETS = ["cpu", pytest.param("opencl", marks=pytest.mark.opencl)]


def weights(*shape: int) -> Array:
    rng = np.random.default_rng(sum(shape))
    return np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1), np.float32)


def punched(*shape: int) -> Array:
    """Weights of which most blocks are zero."""
    mask = np.random.default_rng(0).random(Block().mask_shape(shape)) < 0.2
    return weights(*shape) * expand(mask, Block(), shape)


CONV = "Conv<pads=[1,1,1,1]>"
TWICE = "strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]"
NETWORKS: dict[str, tuple[str, str, dict[str, Array]]] = {
    "block-punched weights, of which some kernels leave out the zeros": (
        "float[1,64,9,11] y, float[1,64,5,6] z",
        f"""a = {CONV}(x, w1)
            b = Conv(a, w2, b2)
            c = Relu(b)
            d = Conv(c, w3)
            y = Add(d, c)
            z = Conv<strides=[2,2], pads=[1,1,1,1]>(d, w4)""",
        {
            "w1": weights(40, 3, 3, 3),
            "w2": punched(64, 40, 1, 1),
            "b2": weights(64),
            "w3": punched(64, 64, 1, 1),
            "w4": punched(64, 64, 3, 3),
        },
    ),
    "two users of one activation": (
        "float[1,8,9,11] y, float[1,8,9,11] z",
        f"""a = {CONV}(x, w1, b1)
            r = Relu(a)
            y = {CONV}(r, w2)
            s = Sigmoid(r)
            z = Add(s, r)""",
        {"w1": weights(8, 3, 3, 3), "b1": weights(8), "w2": weights(8, 8, 3, 3)},
    ),
    "a residual between two convolutions": (
        "float[1,20,9,11] y",
        f"""a = {CONV}(x, w1)
            e = Elu(a)
            b = {CONV}(e, w2)
            r = Relu(b)
            y = Add(e, r)""",
        {"w1": weights(20, 3, 3, 3), "w2": weights(20, 20, 3, 3)},
    ),
    "an output in the middle of what could be fused": (
        "float[1,8,9,11] a, float[1,8,9,11] y",
        f"""a = {CONV}(x, w1)
            y = Relu(a)""",
        {"w1": weights(8, 3, 3, 3)},
    ),
    "concatenation of odd widths, read by a depthwise and a 1x1 convolution": (
        "float[1,6,9,11] y, float[1,24,9,11] z",
        f"""a = {CONV}(x, w1)
            b = {CONV}(x, w2)
            c = Concat<axis=1>(a, b)
            d = Conv<pads=[1,1,1,1], group=24>(c, w3)
            e = Mul(d, c)
            z = Add(e, v)
            y = Conv(z, w4)""",
        {
            "w1": weights(5, 3, 3, 3),
            "w2": weights(19, 3, 3, 3),
            "w3": weights(24, 1, 3, 3),
            "w4": weights(6, 24, 1, 1),
            "v": weights(24, 1, 1),
        },
    ),
    "squeeze and excitation": (
        "float[1,24,9,11] y",
        f"""a = {CONV}(x, w1)
            h = HardSwish(a)
            g = GlobalAveragePool(h)
            s = Conv(g, w2)
            t = Sigmoid(s)
            m = Mul(h, t)
            y = Conv(m, w3)""",
        {"w1": weights(24, 3, 3, 3), "w2": weights(24, 24, 1, 1), "w3": weights(24, 24, 1, 1)},
    ),
    "pooling, resizing and a skip": (
        "float[1,8,8,12] y",
        """a = Conv<pads=[1,1,2,2]>(x, w1)
           p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
           q = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[1,1]>(p)
           r = Resize<mode="linear">(q, , two)
           s = Add(r, a)
           y = Slice(s, start, stop, axes)""",
        {
            "w1": weights(8, 3, 3, 3),
            "two": np.array([1, 1, 2, 2], np.float32),
            "start": np.array([1, 0]),
            "stop": np.array([9, 12]),
            "axes": np.array([2, 3]),
        },
    ),
    "operators that no kernel of ours has": (
        "float[1,10] y, float[1,2,18,22] z",
        f"""a = {CONV}(x, w1)
            z = DepthToSpace<blocksize=2>(a)
            g = GlobalMaxPool(a)
            f = Flatten(g)
            h = Gemm(f, w2)
            y = Softmax(h)""",
        {"w1": weights(8, 3, 3, 3), "w2": weights(8, 10)},
    ),
    "transposed convolutions": (
        "float[1,6,36,44] y, float[1,20,36,44] z",
        f"""a = {CONV}(x, w1)
            b = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(a, w2, b2)
            c = Relu(b)
            d = ConvTranspose<{TWICE}, group=6>(c, w3)
            e = ConvTranspose<{TWICE}>(c, w4)
            y = Add(e, d)
            z = ConvTranspose<{TWICE}, group=2>(c, w5)""",
        {
            "w1": weights(8, 3, 3, 3),
            "w2": weights(8, 6, 4, 4),
            "b2": weights(6),
            "w3": weights(6, 1, 3, 3),
            "w4": weights(6, 6, 3, 3),
            "w5": weights(6, 10, 3, 3),
        },
    ),
    "a transposed convolution of the input, and one with SAME padding": (
        "float[1,5,17,21] y, float[1,4,34,63] z",
        """y = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w1)
           z = ConvTranspose<strides=[2,3], auto_pad="SAME_UPPER">(y, w2)""",
        {"w1": weights(3, 5, 3, 3), "w2": weights(5, 4, 3, 4)},
    ),
    "grouped convolutions": (
        "float[1,64,9,11] y, float[1,10,9,11] z",
        f"""a = {CONV}(x, w1)
            b = Conv<pads=[1,1,1,1], group=2>(a, w2)
            c = Relu(b)
            d = Conv<pads=[1,1,1,1], group=32>(c, w3)
            e = Conv<pads=[1,1,1,1], group=32>(a, w3)
            y = Add(d, e)
            f = Conv<pads=[1,1,1,1], group=3>(x, w4)
            g = Conv<pads=[1,1,1,1], group=3>(x, w5)
            h = Concat<axis=1>(f, g, x)
            z = Conv<group=5>(h, w6)""",
        {
            "w1": weights(32, 3, 3, 3),
            "w2": weights(32, 16, 3, 3),
            "w3": weights(64, 1, 3, 3),
            "w4": weights(9, 1, 3, 3),
            "w5": weights(3, 1, 3, 3),
            "w6": weights(10, 3, 1, 1),
        },
    ),
    "the mean of one block of channels": (
        "float[1,8,1,1] y",
        f"""a = {CONV}(x, w1)
            y = GlobalAveragePool(a)""",
        {"w1": weights(8, 3, 3, 3)},
    ),
    "Clip, LeakyRelu, PRelu, division by a vector": (
        "float[1,5,9,11] y",
        f"""a = {CONV}(x, w1)
            c = Clip(a, low, high)
            l = LeakyRelu<alpha=0.2>(c)
            p = PRelu(l, slope)
            d = Div(p, v)
            y = Conv(d, w2)""",
        {
            "w1": weights(5, 3, 3, 3),
            "w2": weights(5, 5, 1, 1),
            "low": np.float32(-0.5),
            "high": np.float32(0.6),
            "slope": weights(5, 1, 1),
            "v": 2 + weights(1, 5, 1, 1),
        },
    ),
    "Max and Min of several, Abs": (
        "float[1,8,9,11] y",
        f"""a = {CONV}(x, w1)
            b = Abs(a)
            c = Max(a, floor, b)
            d = Min(c, b)
            y = Max(d, slope)""",
        {"w1": weights(8, 3, 3, 3), "floor": np.float32(0.1), "slope": weights(8, 1, 1)},
    ),
    "Swish as one operator": (
        "float[1,8,9,11] y",
        f"""a = {CONV}(x, w1)
            y = Swish<alpha=1.5>(a)""",
        {"w1": weights(8, 3, 3, 3)},
    ),
    "SAME padding of an odd size": (
        "float[1,8,5,6] y",
        """y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w1)""",
        {"w1": weights(8, 3, 4, 4)},
    ),
    "nothing but element-wise": (
        "float[1,3,9,11] y",
        """a = Mul(x, x)
           y = Tanh(a)""",
        {},
    ),
    "an output that is an input": (
        "float[1,3,9,11] y, float[1,3,9,11] z",
        """y = Identity(x)
           z = Relu(x)""",
        {},
    ),
    "an output that is constant": (
        "float[2] c, float[1,3,9,11] y",
        """c = Add(k, k)
           y = Relu(x)""",
        {"k": np.array([1, 2], np.float32)},
    ),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_onnxruntime(name: str, target: str, proto: Proto, tmp_path: Path) -> None:
    outputs, body, constants = NETWORKS[name]
    path = tmp_path / "net.onnx"
    opset = 24 if "Swish" in body else 17
    onnx.save(proto("float[1,3,9,11] x", outputs, body, opset=opset, **constants), path)
    done = compile_model(path, tmp_path / "bundle", CompileOptions(target=target))
    assert isinstance(done.difference, float), done.difference
    assert done.difference < 1e-5


@pytest.mark.opencl
@pytest.mark.parametrize("name", ["a residual between two convolutions", "transposed convolutions"])
def test_layers_hand_over_images(name: str, proto: Proto, tmp_path: Path) -> None:
    outputs, body, constants = NETWORKS[name]
    path = tmp_path / "net.onnx"
    onnx.save(proto("float[1,3,9,11] x", outputs, body, **constants), path)
    done = compile_model(path, tmp_path / "bundle", CompileOptions(target="adreno"))
    assert isinstance(done.difference, float)
    assert done.difference < 2e-5
    # All but the first layer, which reads single numbers.
    assert sum(bool(launch.images) for launch in done.plan.launches if launch.macs) >= 1


@pytest.mark.parametrize("name", ["transposed convolutions", "grouped convolutions"])
def test_every_kind_of_convolution_runs_by_our_kernels(
    name: str, proto: Proto, tmp_path: Path
) -> None:
    outputs, body, constants = NETWORKS[name]
    path = tmp_path / "net.onnx"
    onnx.save(proto("float[1,3,9,11] x", outputs, body, **constants), path)
    plan = compile_model(path, tmp_path / "bundle").plan
    others = [launch.kernel for launch in plan.launches if not launch.macs]
    assert len(plan.launches) - len(others) == body.count("Conv")
    assert not [name for name in others if not re.match("pack|unpack|(fused_)*concat", name)]


def test_bias_activation_and_residual_cost_no_launch(proto: Proto, tmp_path: Path) -> None:
    _, body, constants = NETWORKS["a residual between two convolutions"]
    path = tmp_path / "net.onnx"
    onnx.save(proto("float[1,3,9,11] x", "float[1,20,9,11] y", body, **constants), path)
    plan = compile_model(path, tmp_path / "bundle").plan
    assert [launch.macs > 0 for launch in plan.launches] == [True, True, False]
    assert plan.launches[-1].kernel.startswith("unpack")


@pytest.mark.parametrize(
    "activation",
    ["Abs", "Relu", "Elu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"],
)
def test_activations_cost_no_launch(activation: str, proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    body = f"a = Conv<pads=[1,1,1,1]>(x, w) y = {activation}(a)"
    onnx.save(proto("float[1,3,9,11] x", "float[1,8,9,11] y", body, w=weights(8, 3, 3, 3)), path)
    done = compile_model(path, tmp_path / "bundle")
    kernels = [launch.kernel.rstrip("0123456789_") for launch in done.plan.launches]
    assert kernels == ["conv_dense", "unpack"]


def test_float16_runs_by_our_kernels(proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    body = """h = Cast<to=10>(x)
              c = Conv<pads=[1,1,1,1]>(h, w)
              r = Relu(c)
              y = Cast<to=1>(r)"""
    weight = weights(8, 3, 3, 3).astype(np.float16)
    onnx.save(proto("float[1,3,9,11] x", "float[1,8,9,11] y", body, w=weight), path)
    done = compile_model(path, tmp_path / "bundle")
    assert isinstance(done.difference, float)
    assert done.difference < 1e-2  # half precision
    assert done.manifest.macs > 0


def test_a_batch_of_other_things_than_pictures_is_refused(proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(
        proto(
            "float[2,5,9,11] x",
            "float[2,8,9,11] y",
            "y = Conv<pads=[1,1,1,1]>(x, w)",
            w=weights(8, 5, 3, 3),
        ),
        path,
    )
    with pytest.raises(GraphoptError, match="batch size is 2") as caught:
        compile_model(path, tmp_path / "bundle")
    assert caught.value.exit_code == 4
    assert not (tmp_path / "bundle").exists()


def test_an_operator_that_tvm_lacks_is_named(proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(proto("float[1,3,9,11] x", "float[1,3,9,11] y", "y = LpNormalization(x)"), path)
    with pytest.raises(GraphoptError, match="LpNormalization") as caught:
        compile_model(path, tmp_path / "bundle")
    assert caught.value.exit_code == 4
    assert caught.value.node


def test_an_unknown_target_is_a_sentence(proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(proto("float[1,3,9,11] x", "float[1,3,9,11] y", "y = Relu(x)"), path)
    with pytest.raises(GraphoptError, match="no target is called 'adreno-9000'") as caught:
        compile_model(path, tmp_path / "bundle", CompileOptions(target="adreno-9000"))
    assert "cpu, mali, opencl" in str(caught.value)


CRASHES = """
import json, os, signal, sys
print("not an event")
with os.fdopen(int(sys.argv[2]), "w") as events:
    print(json.dumps({"phase": "code", "detail": "conv_dense_3 for stem/conv"}), file=events)
os.kill(os.getpid(), signal.SIGSEGV)
"""


def test_a_crash_of_the_compiler_names_the_layer(
    proto: Proto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashing_worker.py").write_text(CRASHES)
    monkeypatch.setattr("graphopt.compiler.worker.WORKER", "crashing_worker")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "net.onnx"
    onnx.save(proto("float[1,3,9,11] x", "float[1,3,9,11] y", "y = Relu(x)"), path)
    with pytest.raises(GraphoptError, match="for stem/conv: it died of signal 11"):
        compile_model(path, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
