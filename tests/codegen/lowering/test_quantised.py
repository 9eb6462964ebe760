"""Quantised networks: which kernels they become, and that they compute what onnxruntime does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import few_convolutions
import numpy as np
import onnx
import pytest
from few_convolutions import CONV, weights
from onnxruntime.quantization import QuantType
from quantised_networks import quantise

from graphopt.codegen.importing.products import products_as_convolutions
from graphopt.codegen.targets import load_target
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.ir.arrays import Array
from graphopt.ir.block_structure import Block, expand
from graphopt.optimizer.pack_files import pack_file
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.cpu import cpu_features
from graphopt.runtime.engine import Engine, OnnxRuntimeEngine
from graphopt.runtime.open import open_bundle

Proto = Callable[..., onnx.ModelProto]
SIZE = (1, 3, 18, 21)


FADING = np.array([1e-9, 0, *[1] * 14], np.float32).reshape(-1, 1, 1, 1)
NETWORKS: dict[str, tuple[str, str, Mapping[str, Array], int]] = {
    **few_convolutions.NETWORKS,
    "filters whose weights are next to nothing beside their bias": (
        "float[1,16,18,21] y",
        f"""a = {CONV}(x, w1, b)
            r = Relu(a)
            y = Conv<pads=[1,1,1,1], group=16>(r, w2, b)""",
        {
            "w1": weights(16, 3, 3, 3) * FADING,
            "w2": weights(16, 1, 3, 3) * FADING,
            "b": weights(16),
        },
        2,
    ),
}


def quantised(model: onnx.ModelProto, folder: Path, activations: QuantType) -> Path:
    """The network as onnxruntime quantises it, on some random inputs."""
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal(SIZE, dtype=np.float32)} for _ in range(4)]
    onnx.save(model, folder / "float.onnx")
    return quantise(
        folder / "float.onnx",
        folder / "quantised.onnx",
        feeds,
        activations,
        per_channel=activations is QuantType.QUInt8,
    )


@pytest.mark.parametrize(
    ("target", "activations"),
    [
        ("cpu", QuantType.QUInt8),
        ("cpu", QuantType.QInt8),
        pytest.param("opencl", QuantType.QUInt8, marks=pytest.mark.opencl),
    ],
    ids=str,
)
@pytest.mark.parametrize("case", NETWORKS)
def test_convolutions_are_of_bytes(
    case: str, target: str, activations: QuantType, proto: Proto, tmp_path: Path
) -> None:
    if not load_target(target).dot:
        pytest.skip("this CPU has no instructions that kernels of bytes use")
    outputs, body, constants, count = NETWORKS[case]
    model = proto(f"float[{','.join(map(str, SIZE))}] x", outputs, body, **constants)
    path = quantised(model, tmp_path, activations)
    bundle = tmp_path / "n.graphopt"
    compile_model(path, bundle, CompileOptions(target=target))
    runner = open_bundle(bundle)
    launches = runner.bundle.plan.launches
    kernels = [launch.kernel for launch in launches if launch.stage == "network"]
    convolved = [launch for launch in launches if launch.kernel.startswith("conv_int8")]
    # On a GPU, a transposed one is several, of which the first counts its multiply-adds.
    assert sum(bool(launch.macs) for launch in convolved) == count, kernels
    # Beside them, the input becomes bytes, the output floats, and bytes are moved once at most.
    assert len(kernels) <= len(convolved) + 3, kernels
    check_close(OnnxRuntimeEngine(path.read_bytes()), runner)


PRODUCTS: dict[str, tuple[str, str, Mapping[str, Array], int]] = {
    "rows of maps, read twice": (
        "float[1,20,40] y, float[1,20,96] z",
        f"""a = {CONV}(x, w1)
            r = Relu(a)
            m = Reshape(r, s)
            p = MatMul(m, w2)
            q = Relu(p)
            y = MatMul(q, w3)
            z = MatMul(m, w4)""",
        {
            "w1": weights(20, 3, 3, 3),
            "s": np.array([1, 20, 378]),
            "w2": weights(378, 32),
            "w3": weights(32, 40),
            "w4": weights(378, 96),
        },
        4,
    ),
    "one row, and a bias": (
        "float[1,7] y",
        f"""a = {CONV}(x, w1)
            f = Flatten(a)
            g = Gemm<transB=1>(f, w2, b)
            r = Relu(g)
            y = Gemm(r, w3)""",
        {
            "w1": weights(4, 3, 3, 3),
            "w2": weights(33, 1512),
            "b": weights(33),
            "w3": weights(33, 7),
        },
        3,
    ),
}


@pytest.mark.parametrize(
    "target", ["cpu", pytest.param("opencl", marks=pytest.mark.opencl)], ids=str
)
@pytest.mark.parametrize("case", PRODUCTS)
def test_products_with_matrices_are_of_bytes(
    case: str, target: str, proto: Proto, tmp_path: Path
) -> None:
    if not load_target(target).dot:
        pytest.skip("this CPU has no instructions that kernels of bytes use")
    outputs, body, constants, count = PRODUCTS[case]
    path = quantised(
        proto("float[1,3,18,21] x", outputs, body, **constants), tmp_path, QuantType.QUInt8
    )
    bundle = tmp_path / "n.graphopt"
    compile_model(path, bundle, CompileOptions(target=target))
    runner = open_bundle(bundle)
    launches = [one for one in runner.bundle.plan.launches if one.stage == "network" and one.macs]
    assert [one.kernel.startswith("conv_int8") for one in launches] == [True] * count
    check_close(OnnxRuntimeEngine(path.read_bytes()), runner)


@pytest.mark.parametrize("case", PRODUCTS)
def test_products_as_convolutions_compute_the_same(case: str, proto: Proto, tmp_path: Path) -> None:
    outputs, body, constants, _ = PRODUCTS[case]
    path = quantised(
        proto("float[1,3,18,21] x", outputs, body, **constants), tmp_path, QuantType.QUInt8
    )
    written = onnx.load(path)
    rewritten = products_as_convolutions(written)
    assert "Conv" in {node.op_type for node in rewritten.graph.node}
    assert not {"MatMul", "Gemm"} & {node.op_type for node in rewritten.graph.node}
    check_close(
        OnnxRuntimeEngine(written.SerializeToString(), optimize=False),
        OnnxRuntimeEngine(rewritten.SerializeToString(), optimize=False),
    )


def check_close(expected: Engine, got: Engine) -> None:
    """Two engines differ by steps of eight bits, and hardly ever."""
    x = {"x": np.random.default_rng(1).standard_normal(SIZE, dtype=np.float32)}
    found = got.run(x)
    for name, values in expected.run(x).items():
        value, other = values.astype(np.float32), found[name].astype(np.float32)
        step = np.ptp(value) / 255
        assert other.shape == value.shape
        assert np.mean(np.abs(other - value) > 0.5 * step) < 0.03
        assert np.abs(other - value).max() < 4 * step


def test_what_was_pruned_is_left_out(proto: Proto, tmp_path: Path) -> None:
    """Packed, too; layers of which hardly anything is zero stay dense."""
    if "avx2" not in cpu_features():
        pytest.skip("this CPU has no AVX2")
    block, shape = Block(16, 4), (64, 64, 3, 3)
    mask = np.random.default_rng(0).random(block.mask_shape(shape)) < 0.4
    constants = {
        "w1": weights(64, 3, 3, 3),
        "w2": weights(*shape) * expand(mask, block, shape),
        "w3": weights(64, 64, 1, 1),
    }
    body = f"""a = {CONV}(x, w1) r = Relu(a) b = {CONV}(r, w2) s = Relu(b) y = Conv(s, w3)"""
    model = proto("float[1,3,18,21] x", "float[1,64,18,21] y", body, **constants)
    path = quantised(model, tmp_path, QuantType.QUInt8)
    packed, bundle = tmp_path / "packed.onnx", tmp_path / "n.graphopt"
    pack_file(path, packed)
    assert packed.stat().st_size < 0.7 * path.stat().st_size
    compile_model(packed, bundle, CompileOptions(cpu_features="avx2"))
    runner = open_bundle(bundle)
    launched = runner.bundle.plan.launches
    kernels = [launch.kernel for launch in launched if launch.kernel.startswith("conv_int8")]
    assert [kernel.rstrip("0123456789_") for kernel in kernels] == [
        "conv_int8_dot",
        "conv_int8_sparse_dot",
        "conv_int8_dot",
    ]
    sparse = next(launch for launch in launched if "sparse" in launch.kernel)
    assert sparse.macs == 18 * 21 * 64 * 64 * 9 * mask.mean()
    x = {"x": np.random.default_rng(1).standard_normal(SIZE, dtype=np.float32)}
    expected = OnnxRuntimeEngine(path.read_bytes()).run(x)["y"].astype(np.float32)
    got = runner.run(x)["y"].astype(np.float32)
    step = np.ptp(expected) / 255
    assert np.mean(np.abs(got - expected) > 0.5 * step) < 0.03


@pytest.mark.opencl
def test_floats_where_they_are_asked_for(proto: Proto, tmp_path: Path) -> None:
    outputs, body, constants, _ = NETWORKS["pooling, and a stride"]
    model = proto(f"float[{','.join(map(str, SIZE))}] x", outputs, body, **constants)
    path = quantised(model, tmp_path, QuantType.QUInt8)
    # It is compared with onnxruntime's.
    options = CompileOptions(target="opencl", dequantize=True, post="none", max_photo=0)
    compile_model(path, tmp_path / "n.graphopt", options)
    kernels = read_bundle(tmp_path / "n.graphopt").plan.launches
    assert not any(launch.kernel.startswith("conv_int8") for launch in kernels)
