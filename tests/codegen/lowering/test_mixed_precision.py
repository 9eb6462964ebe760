"""Bundles in half precision: what is stored so, what is not, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from graphopt.analysis.ranges import largest_values
from graphopt.cli import app
from graphopt.codegen.lowering.mixed_precision import Halves
from graphopt.compiler.compile import Compilation, compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.errors import InputError, Unsupported, UsageError
from graphopt.ir.arrays import Array
from graphopt.ir.onnx_io import load_model
from graphopt.runtime.open import open_bundle

Proto = Callable[..., onnx.ModelProto]
TARGETS = ["cpu", pytest.param("opencl", marks=pytest.mark.opencl)]
CONV = "Conv<pads=[1,1,1,1]>"


def weights(*shape: int) -> Array:
    rng = np.random.default_rng(sum(shape))
    return np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1), np.float32)


def activations(done: Compilation, dtype: str) -> int:
    """Numbers of a type in working memory."""
    tensors = [t for t in done.plan.tensors if t.dtype == dtype and t.arena not in (None, -1)]
    return sum(int(np.prod(t.shape)) for t in tensors)


BRANCHES = f"""a = {CONV}(x, w1, b)
    r = Elu(a)
    d = Conv<pads=[1,1,1,1], group=20>(r, w2)
    s = Add(d, r)
    g = GlobalAveragePool(s)
    t = Sigmoid(g)
    m = Mul(s, t)
    p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(m)
    c = Concat<axis=1>(p, s, r)
    y = Conv(c, w3)"""
CONSTANTS = {
    "w1": weights(20, 3, 3, 3),
    "b": weights(20),
    "w2": weights(20, 1, 3, 3),
    "w3": weights(70, 60, 1, 1),
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_network_in_half_precision(target: str, proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(proto("float[1,3,19,21] x", "float[1,70,19,21] y", BRANCHES, **CONSTANTS), path)
    full = compile_model(path, tmp_path / "full", CompileOptions(target=target))
    done = compile_model(path, tmp_path / "half", CompileOptions(target=target, fp16=True))
    assert done.kept == ()
    assert isinstance(done.difference, float)
    assert 1e-6 < done.difference < 5e-3
    assert {done.plan.tensors[i].dtype for i in done.plan.inputs.values()} == {"float32"}
    assert {done.plan.tensors[i].dtype for i in done.plan.outputs.values()} == {"float32"}
    size, before = (c.manifest.files["weights.bin"].bytes for c in (done, full))
    assert size < 0.6 * before
    if target == "opencl":  # all but the result in two forms, and what is pooled
        assert activations(done, "float16") > 0.3 * activations(full, "float32")
    else:
        assert activations(done, "float32") == activations(full, "float32")


def test_conversions_cost_few_launches(proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(proto("float[1,3,19,21] x", "float[1,70,19,21] y", BRANCHES, **CONSTANTS), path)
    launches = [
        len(
            compile_model(
                path, tmp_path / "b", CompileOptions(target="opencl", fp16=fp16)
            ).plan.launches
        )
        for fp16 in (False, True)
    ]
    assert launches[1] <= launches[0] + 1  # the one that gates what is pooled


LARGE = f"""a = {CONV}(x, w1)
    b = Relu(a)
    c = {CONV}(b, w2)
    d = Relu(c)
    e = {CONV}(d, w3)
    y = Relu(e)"""


@pytest.mark.parametrize("target", TARGETS)
def test_what_overflows_stays_as_it_is(target: str, proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    constants = {
        "w1": weights(8, 3, 3, 3) * np.float32(1e4),
        "w2": weights(8, 8, 3, 3) * np.float32(1e-9),
        "w3": weights(8, 8, 3, 3) * np.float32(1e6),
    }
    model = proto("float[1,3,19,21] x", "float[1,8,19,21] y", LARGE, **constants)
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    onnx.save(model, path)
    done = compile_model(path, tmp_path / "bundle", CompileOptions(target=target, fp16=True))
    assert isinstance(done.difference, float)
    assert done.difference < 2e-2
    reported = {text.split(",")[0] for text in done.kept}
    # The second weight is too small, the third too large; the first one's results are too large.
    expected = {"the weight of node_c", "the weight of node_e"}
    assert reported == expected | ({"the output of node_b"} if target == "opencl" else set())


@pytest.mark.opencl
def test_lanes_without_a_channel_stay_finite(proto: Proto, tmp_path: Path) -> None:
    # There the sums are 0. 1 / 1e-6 is more than a float16 holds, and infinity times 0 no number.
    path = tmp_path / "net.onnx"
    body = """a = Conv(x, w1, b)
              r = Relu(a)
              s = Add(r, small)
              d = Div(one, s)
              y = Conv(d, w2)"""
    constants = {
        "w1": weights(5, 3, 1, 1) * np.float32(1e-4),
        "b": np.ones(5, np.float32),
        "small": np.float32(1e-6),
        "one": np.float32(1),
        "w2": weights(8, 5, 1, 1),
    }
    onnx.save(proto("float[1,3,29,31] x", "float[1,8,29,31] y", body, **constants), path)
    done = compile_model(path, tmp_path / "bundle", CompileOptions(target="opencl", fp16=True))
    assert activations(done, "float16") > 5 * 29 * 31
    feed = {"x": np.ones((1, 3, 29, 31), np.float32)}
    assert np.isfinite(open_bundle(tmp_path / "bundle").run(feed)["y"]).all()


def test_what_is_worth_halving() -> None:
    largest = {"fits": 100.0, "close": 9000.0, "tiny": 1e-5, "wild": np.inf, "zero": 0.0}
    halves = Halves(largest, activations=True)
    refused = ("close", "tiny", "wild")
    assert halves.holds("fits", 10**4)
    assert not any(halves.holds(name, 10**4) for name in (*refused, "zero", "unknown"))
    assert not halves.holds("fits", 10)
    assert halves.kept == []  # asking changes nothing
    for name in refused:
        reason = halves.refusal(name, 10**4)
        assert reason
        assert reason.startswith(f"the output of {name}, ")
    assert not any(halves.refusal(name, 10**4) for name in ("fits", "zero", "unknown"))
    assert not halves.refusal("wild", 10)
    assert not Halves(largest, activations=False).holds("fits", 10**4)


def test_the_largest_values(proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    body = """n = Neg(x)
              s = Sub(n, three)
              i = ArgMax(s)
              y = Log(x)"""
    three = np.float32(3)
    onnx.save(proto("float[1,4] x", "float[1,4] y, int64[1,4] i", body, three=three), path)
    feeds = [{"x": np.array([[1, 2, row, 4]], np.float32)} for row in (3, 5, 1)]
    assert largest_values(load_model(path), feeds) == {
        "n": 5.0,
        "s": 8.0,
        "y": pytest.approx(np.log(5)),
    }
    infinite = largest_values(load_model(path), [{"x": np.zeros((1, 4), np.float32)}, feeds[0]])
    assert infinite["y"] == np.inf


@pytest.mark.opencl
def test_arithmetic_needs_a_device_that_has_it(proto: Proto, tmp_path: Path) -> None:
    path, bundle = tmp_path / "net.onnx", tmp_path / "bundle"
    onnx.save(proto("float[1,3,19,21] x", "float[1,70,19,21] y", BRANCHES, **CONSTANTS), path)
    done = compile_model(path, bundle, CompileOptions(target="opencl", fp16_arithmetic=True))
    assert done.manifest.target.extensions == ("cl_khr_fp16",)
    source = (bundle / "kernels.cl").read_text()
    # Sums in halves where all is stored so; the first layer reads a photo in float.
    assert "half4 " in source
    assert "float4 " in source
    if isinstance(done.difference, str):
        assert "cl_khr_fp16" in done.difference
        with pytest.raises(Unsupported, match="cl_khr_fp16"):
            open_bundle(bundle)
    else:
        assert done.difference < 5e-2


def test_a_cpu_has_no_arithmetic_in_halves(proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(proto("float[1,3,9,9] x", "float[1,3,9,9] y", "y = Relu(x)"), path)
    here = CompileOptions(fp16_arithmetic=True)
    with pytest.raises(InputError, match="no arithmetic in half precision but on Arm"):
        compile_model(path, tmp_path / "bundle", replace(here, host="x86_64-linux-gnu"))
    arm = replace(here, host="aarch64-linux-gnu", cpu_features="i8mm")
    needs = "needs a CPU with asimdhp, and a CPU of aarch64-linux-gnu, as far as --cpu-features"
    with pytest.raises(Unsupported, match=f"{needs} lets it, has asimd, asimddp, i8mm"):
        compile_model(path, tmp_path / "bundle", arm)


def test_an_arm_cpu_does_not_multiply_bytes_in_halves(proto: Proto, tmp_path: Path) -> None:
    body = "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)"
    constants = {"s": np.float32(0.1), "z": np.uint8(3)}
    path = tmp_path / "q.onnx"
    onnx.save(proto("float[1,3,9,9] x", "float[1,3,9,9] y", body, **constants), path)
    options = CompileOptions(fp16_arithmetic=True, host="aarch64-linux-gnu")
    with pytest.raises(UsageError, match="this one is quantised") as caught:
        compile_model(path, tmp_path / "b", options)
    assert "--dequantize" in (caught.value.hint or "")


def test_photos_without_fp16_are_refused(proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(proto("float[1,3,9,11] x", "float[1,3,9,11] y", "y = Relu(x)"), path)
    with pytest.raises(InputError, match="--calib"):
        compile_model(path, tmp_path / "bundle", CompileOptions(calib=tmp_path))
    with pytest.raises(InputError, match="pose network"):
        compile_model(path, tmp_path / "bundle", CompileOptions(fp16=True, calib=tmp_path))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.assets
@pytest.mark.parametrize("target", TARGETS)
def test_half_the_size_and_the_same_people(
    target: str, lwop: Path, photos: list[Path], tmp_path: Path
) -> None:
    def command(*args: object) -> None:
        result = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
        assert result.exit_code == 0, result.output

    bundle = tmp_path / "bundle"
    shape = ("--input-shape", "1,3,256,456")
    calib = ("--calib", photos[0].parent)
    command("compile", lwop, "-o", bundle, "--target", target, "--fp16", *shape, *calib)
    parameters = sum(int(np.prod(t.dims)) for t in onnx.load(lwop).graph.initializer)
    assert sum(file.stat().st_size for file in bundle.iterdir()) < 6 * parameters
    found = {}
    for engine in ("graphopt", "onnxruntime"):
        poses = tmp_path / f"{engine}.json"
        command("run", bundle, *photos, "--engine", engine, "--json", poses)
        found[engine] = json.loads(poses.read_text())
    for ours, theirs in zip(found["graphopt"], found["onnxruntime"], strict=True):
        assert len(ours["people"]) == len(theirs["people"]), ours["image"]
        for a, b in zip(ours["people"], theirs["people"], strict=True):
            shift = np.abs(np.subtract(a["keypoints"], b["keypoints"])[:, :2])
            assert np.median(shift) < 0.2, ours["image"]
