"""Operators that TVM's importer lacks or gets wrong: each kind, compared with onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.codegen.lowering.memory_plan import check_memory
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.errors import GraphoptError
from graphopt.ir.arrays import Array
from graphopt.runtime.plan import Launch, Plan, Tensor

Proto = Callable[..., onnx.ModelProto]
X = "float[1,3,10,12] x"
TARGETS = ["cpu", pytest.param("opencl", marks=pytest.mark.opencl)]


def weights(*shape: int) -> Array:
    rng = np.random.default_rng(sum(shape))
    return np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1), np.float32)


CONV = "a = Conv<pads=[1,1,1,1]>(x, w1)"
W = weights(8, 3, 3, 3)
POOL = "kernel_shape=[2,2], strides=[2,2]"


def f16(value: Array | float) -> Array:
    return np.asarray(value, np.float16)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


Case = tuple[str, str, str, dict[str, Array]]
"""Inputs, outputs, body, constants."""

CASES: dict[str, Case] = {
    "float16 Clip": (
        "float16[1,3,8,8] x",
        "float16[1,3,8,8] y",
        "y = Clip(x, lo, hi)",
        {"lo": f16(0), "hi": f16(6)},
    ),
    "float16 activations": (
        "float16[1,3,8,8] x",
        "float16[1,8,8,8] y, float16[1,8,8,8] b",
        f"{CONV} b = Elu(a) c = HardSigmoid(b) d = HardSwish(c) e = Max(d, k) y = Mul(e, b)",
        {"w1": f16(W), "k": f16(0.1)},
    ),
    "float16 in the middle": (
        X,
        "float[1,8,10,12] y",
        f"""h = Cast<to=10>(x) {CONV.replace("x", "h")} b = LeakyRelu(a)
            r = Resize<mode="linear">(b, , s) p = AveragePool<{POOL}>(r)
            q = Mul(p, c) y = Cast<to=1>(q)""",
        {"w1": f16(W), "s": floats(1, 1, 2, 2), "c": f16(0.5)},
    ),
    "uint8 pictures, channels last": (
        "uint8[1,10,12,3] x",
        "float[1,8,10,12] y",
        "f = Cast<to=1>(x) t = Transpose<perm=[0,3,1,2]>(f) y = Conv<pads=[1,1,1,1]>(t, w1)",
        {"w1": W},
    ),
    "whole numbers clipped": (
        "int32[1,8] x",
        "int32[1,8] y",
        "y = Clip(x, lo, hi)",
        {"lo": np.int32(-1), "hi": np.int32(1)},
    ),
    "pools with SAME_LOWER": (
        "float[1,3,9,11] x",
        "float[1,3,5,6] y, float[1,3,5,6] z, float[1,8,5,6] v",
        f"""y = MaxPool<{POOL}, auto_pad="SAME_LOWER">(x)
            z = AveragePool<{POOL}, auto_pad="SAME_LOWER">(x)
            a = Conv<strides=[2,2], auto_pad="SAME_LOWER">(x, w1)
            v = MaxPool<kernel_shape=[2,2], auto_pad="SAME_LOWER">(a)""",
        {"w1": weights(8, 3, 4, 4)},
    ),
    "pools with VALID, padding that counts, and more at the end": (
        "float[1,3,9,12] x",
        "float[1,3,4,6] y, float[1,3,5,6] z, float[1,3,5,7] v",
        f"""y = MaxPool<{POOL}, auto_pad="VALID">(x)
            z = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1],
                            count_include_pad=1>(x)
            v = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1>(x)""",
        {},
    ),
    "ConvTranspose to an output_shape": (
        X,
        "float[1,5,20,24] y, float[1,5,20,35] z, float[1,5,22,26] v, float[1,5,20,24] u",
        """y = ConvTranspose<strides=[2,2], output_shape=[20,24]>(x, w1)
           z = ConvTranspose<strides=[2,3], output_shape=[20,35], auto_pad="SAME_UPPER">(x, w2)
           v = ConvTranspose<strides=[2,2], output_shape=[22,26]>(x, w1)
           u = ConvTranspose<strides=[2,2], auto_pad="SAME_LOWER">(x, w2)""",
        {"w1": weights(3, 5, 3, 3), "w2": weights(3, 5, 4, 4)},
    ),
    "indices that nobody uses": (
        X,
        "float[1,3,5,6] y, float[1,3,10,12] z",
        f"y, i = MaxPool<{POOL}>(x) z, m = Dropout(x)",
        {},
    ),
    "Split into three, which go separate ways": (
        X,
        "float[1,4,10,12] y",
        f"""{CONV} p, q, r = Split<axis=1>(a, s) t = Add(p, q) u = Conv(r, w2)
            y = Mul(t, u)""",
        {"w1": weights(12, 3, 3, 3), "s": ints(4, 4, 4), "w2": weights(4, 4, 1, 1)},
    ),
    "Split of rows, one of whose parts is an output": (
        X,
        "float[1,8,5,12] y, float[1,8,5,12] z",
        f"{CONV} p, z = Split<axis=2>(a) y = Conv(p, w2)",
        {"w1": W, "w2": weights(8, 8, 1, 1)},
    ),
    "Split at whole blocks": (
        X,
        "float[1,32,10,12] y",
        f"""{CONV} p, q = Split<axis=1>(a) r = Conv(p, w2) t = Add(q, r)
            z = Concat<axis=1>(p, q, t) v, u = Split<axis=1>(z, s) y = Conv(u, w3)""",
        {
            "w1": weights(64, 3, 3, 3),
            "w2": weights(32, 32, 1, 1),
            "w3": weights(32, 80, 1, 1),
            "s": ints(16, 80),
        },
    ),
    "channels shuffled": (
        X,
        "float[1,32,10,12] y",
        f"""{CONV} r = Reshape(a, s1) t = Transpose<perm=[0,2,1,3,4]>(r) u = Reshape(t, s2)
            p, q = Split<axis=1>(u) v = Conv(p, w2) y = Concat<axis=1>(v, q)""",
        {
            "w1": weights(32, 3, 3, 3),
            "w2": weights(16, 16, 1, 1),
            "s1": ints(1, 2, 16, 10, 12),
            "s2": ints(1, 32, 10, 12),
        },
    ),
    "slices of blocked tensors": (
        X,
        "float[1,8,5,4] y, float[1,8,4,12] z, float[1,5,10,12] v",
        f"{CONV} y = Slice(a, s, e, ax, st) z = Slice(a, s, m, ax) v = Slice(a, s, e, ch)",
        {
            "w1": W,
            "s": ints(0, 1),
            "e": ints(10, 12),
            "m": ints(-6, 1000),
            "ax": ints(2, 3),
            "st": ints(2, 3),
            "ch": ints(3, 1),
        },
    ),
    "Concat with a constant": (
        X,
        "float[1,5,10,12] y, float[1,12,10,12] z",
        f"""{CONV} c = Concat<axis=1>(a, k) y = Conv<pads=[1,1,1,1]>(c, w2)
            z = Concat<axis=1>(k, a, k)""",
        {"w1": W, "k": weights(1, 2, 10, 12), "w2": weights(5, 10, 3, 3)},
    ),
    "Concat with a constant of the input, and of rows": (
        X,
        "float[1,5,10,12] y, float[1,8,11,12] z",
        f"""{CONV} c = Concat<axis=1>(k, x) y = Conv<pads=[1,1,1,1]>(c, w2)
            z = Concat<axis=2>(a, v)""",
        {
            "w1": W,
            "k": weights(1, 2, 10, 12),
            "w2": weights(5, 5, 3, 3),
            "v": weights(1, 8, 1, 12),
        },
    ),
    "an input that is only reshaped": (
        "float[1,360] x",
        "float[1,8,10,12] y, float[360] z",
        f"r = Reshape(x, s) {CONV.replace('x', 'r')} y = Relu(a) z = Flatten<axis=0>(r)",
        {"w1": W, "s": ints(1, 3, 10, 12)},
    ),
    "an input without a batch, and a reshape straight to an output": (
        "float[3,10,12] x",
        "float[1,8,10,12] y, float[30,12] z",
        f"u = Unsqueeze(x, k) {CONV.replace('x', 'u')} y = Relu(a) z = Reshape(x, s)",
        {"w1": W, "k": ints(0), "s": ints(30, 12)},
    ),
    "TopK": (
        "float[1,50,4] x",
        "float[1,7,4] y, int64[1,7,4] i, float[1,50,2] z, int64[1,50,2] j",
        "y, i = TopK<axis=1>(x, k) z, j = TopK<largest=0>(x, m)",
        {"k": ints(7), "m": ints(2)},
    ),
    "matrix products with weights, of as many rows as a pose has joints": (
        "float[1,17,48] x",
        "float[1,17,256] y, float[1,17,17] z, float[1,17,3] v",
        """a = MatMul(x, w1) b = Add(a, w2) y = Relu(b) t = Transpose<perm=[0,2,1]>(y)
           m = MatMul(y, t) z = Softmax(m) v = MatMul(x, w3)""",
        {"w1": weights(48, 256), "w2": weights(256), "w3": weights(48, 3)},
    ),
    "matrix products of heads, of primes, and of vectors": (
        "float[1,3,12,20] x",
        "float[1,3,12,12] y, float[1,3,12,97] z, float[1,3,12] v, float[1,70] u",
        """t = Transpose<perm=[0,1,3,2]>(x) y = MatMul(x, t) z = MatMul(x, w1) v = MatMul(x, w2)
           f = Reshape(x, s) u = Gemm<transB=1>(f, w3, b)""",
        {
            "w1": weights(20, 97),
            "w2": weights(20),
            "s": ints(1, 720),
            "w3": weights(70, 720),
            "b": weights(70),
        },
    ),
    "upsampling by 8, and by strides that share no divisor with the kernel": (
        X,
        "float[1,3,80,96] y, float[1,3,80,96] z, float[n,c,vh,vw] v, float[n,c,uh,uw] u",
        """y = ConvTranspose<strides=[8,8], pads=[4,4,4,4]>(x, w1)
           z = ConvTranspose<strides=[8,8], pads=[4,4,4,4], group=3>(x, w2)
           v = ConvTranspose<strides=[3,5], pads=[1,0,0,2]>(x, w3)
           u = ConvTranspose<strides=[8,4], dilations=[2,2]>(x, w4)""",
        {
            "w1": weights(3, 3, 16, 16),
            "w2": weights(3, 1, 16, 16),
            "w3": weights(3, 6, 5, 7),
            "w4": weights(3, 6, 5, 5),
        },
    ),
    "TopK of equal numbers": (
        "float[1,50] x",
        "float[1,9] y, int64[1,9] i",
        "r = Round(x) y, i = TopK(r, k)",
        {"k": ints(9)},
    ),
}


def resized(extra: str, *given: str, opset: int = 13) -> tuple[str, int]:
    return f"{CONV} y = Resize<{extra}>(a, {', '.join(given)})", opset


COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
RESIZES: dict[str, tuple[str, int]] = {
    **{
        f"{mode}, {coordinates}": resized(
            f'mode="{mode}", coordinate_transformation_mode="{coordinates}"', "", scales
        )
        for mode in ("nearest", "linear", "cubic")
        for coordinates, scales in zip(COORDINATES, ("s", "s", "d", "d"), strict=True)
    },
    "to sizes": resized('mode="linear"', "", "", "n"),
    "cubic, inside only": resized('mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5', "", "s"),
    "nearest, rounded up": resized(
        'nearest_mode="ceil", coordinate_transformation_mode="asymmetric"', "", "s"
    ),
    "antialias": resized('mode="linear", antialias=1', "", "d", opset=18),
    "antialias, cubic": resized('mode="cubic", antialias=1', "", "d", opset=18),
    "antialias, far smaller": resized('mode="linear", antialias=1', "", "t", opset=18),
    "axes": resized('mode="linear", axes=[3,2]', "", "f", opset=18),
    "axes, to sizes": resized('mode="linear", axes=[2]', "", "", "r", opset=18),
    "channels, too": resized('mode="nearest"', "", "c"),
}


def check(path: Path, target: str) -> None:
    done = compile_model(path, path.parent / "bundle", CompileOptions(target=target))
    assert isinstance(done.difference, float), done.difference
    assert done.difference < (1e-3 if "float16" in path.name else 1e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_equals_onnxruntime(name: str, target: str, proto: Proto, tmp_path: Path) -> None:
    inputs, outputs, body, constants = CASES[name]
    path = tmp_path / f"{name}.onnx"
    onnx.save(proto(inputs, outputs, body, **constants), path)
    check(path, target)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *((name, "cpu") for name in RESIZES),
        *(
            pytest.param(name, "opencl", marks=pytest.mark.opencl)
            for name in ("linear, half_pixel", "antialias", "channels, too")
        ),
    ],
)
def test_resize_equals_onnxruntime(name: str, target: str, proto: Proto, tmp_path: Path) -> None:
    body, opset = RESIZES[name]
    constants = {
        "w1": W,
        "s": floats(1, 1, 1.7, 2.3),
        "d": floats(1, 1, 0.4, 0.6),
        "t": floats(1, 1, 0.1, 0.25),
        "n": ints(1, 8, 7, 19),
        "f": floats(1.5, 2.2),
        "r": ints(13),
        "c": floats(1, 2, 1, 1.5),
    }
    used = {key: value for key, value in constants.items() if f" {key}" in body or key == "w1"}
    path = tmp_path / "net.onnx"
    onnx.save(proto(X, "float[n,c,h,w] y", body, opset=opset, **used), path)
    check(path, target)


@pytest.mark.parametrize(
    ("inputs", "body", "says"),
    [
        ("float[1,6,4] b, float[1,1,6] s", "y = NonMaxSuppression(b, s)", "boxes"),
        (f"{X}, int64[8] p", "y = Pad(x, p)", "the padding of this Pad"),
        ("float[1,8] x, int64[1] k", "y, i = TopK(x, k)", "the K of this TopK"),
        (f"{X}, int64[2] s", "y = Reshape(x, s)", "the shape of this Reshape"),
    ],
)
def test_sizes_that_depend_on_the_photo_are_refused(
    inputs: str, body: str, says: str, proto: Proto, tmp_path: Path
) -> None:
    kind = "int64" if "Non" in body else "float"
    path = tmp_path / "net.onnx"
    extents = "k,l,m,n" if "Pad" in body else "m,n"
    model = proto(inputs, f"{kind}[{extents}] y", body)
    model.graph.node[0].name = "late"
    onnx.save(model, path)
    told: list[str] = []
    with pytest.raises(GraphoptError, match=says) as caught:
        compile_model(path, tmp_path / "bundle", progress=told.append)
    assert caught.value.exit_code == 4
    assert caught.value.node == "late"
    assert "extract_model" in (caught.value.hint or "")
    assert "import" not in told, "the compiler was started for nothing"


@pytest.mark.opencl
def test_upsampling_by_8_takes_few_launches(proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    body = "y = ConvTranspose<strides=[8,8], pads=[4,4,4,4]>(x, w)"
    onnx.save(proto(X, "float[1,3,80,96] y", body, w=weights(3, 3, 16, 16)), path)
    plan = compile_model(path, tmp_path / "bundle", CompileOptions(target="opencl")).plan
    assert sum("conv_transpose" in launch.kernel for launch in plan.launches) == 4


def test_indices_that_are_used_are_refused(proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(proto(X, "float[1,3,5,6] y, int64[1,3,5,6] i", f"y, i = MaxPool<{POOL}>(x)"), path)
    with pytest.raises(GraphoptError, match="indices of this MaxPool") as caught:
        compile_model(path, tmp_path / "bundle")
    assert caught.value.exit_code == 4
    assert caught.value.node


def test_a_network_that_computes_nothing_is_refused(proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(proto("float[1,3] x", "float[1,3] y", "y = Identity(x)"), path)
    with pytest.raises(GraphoptError, match="computes nothing") as caught:
        compile_model(path, tmp_path / "bundle")
    assert caught.value.exit_code == 4


SMALL = Tensor(shape=(4,), dtype="float32", arena=0)
PLAN = Plan(
    arenas=(32,),
    tensors=(
        replace(SMALL, arena=None),
        SMALL,
        replace(SMALL, offset=16),
        replace(SMALL, offset=8),
        replace(SMALL, arena=-1),
    ),
    launches=(),
    inputs={"x": 0},
    outputs={"y": 2},
)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([(0, 1), (1, 4, 2)], ""),
        ([(1, 2)], "layer0 would read memory that was not written"),
        ([(0, 1), (0, 3), (1, 2)], "layer2 would read"),
        ([(0, 1)], "the output y would read"),
        ([(0, 4)], "write to an input or a weight"),
        ([(4, 0)], "write to an input or a weight"),
    ],
)
def test_memory_is_written_before_it_is_read(arguments: list[tuple[int, ...]], says: str) -> None:
    launches = tuple(
        Launch(kernel="k", arguments=a, layer=f"layer{i}") for i, a in enumerate(arguments)
    )
    plan = replace(PLAN, launches=launches)
    if not says:
        check_memory(plan)
        return
    with pytest.raises(GraphoptError, match=says):
        check_memory(plan)
