"""Networks in bfloat16: which kernels they become, and that they are as far off as rounding takes
them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import few_convolutions
import numpy as np
import onnx
import pytest
from few_convolutions import CONV, weights
from typer.testing import CliRunner

from graphopt.cli import app
from graphopt.codegen.hosts import FEATURES
from graphopt.codegen.targets import check_bfloat16
from graphopt.compiler.bfloat16 import bfloat16_agreement, rounded_to_bfloat16
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.errors import CheckFailed, Unsupported, UsageError
from graphopt.ir.arrays import Array
from graphopt.ir.onnx_io import load_model
from graphopt.runtime.cpu import cpu_features
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.open import open_bundle

Proto = Callable[..., onnx.ModelProto]
IN_BFLOAT16 = CompileOptions(bf16=True)

able = pytest.mark.skipif(
    not cpu_features() >= {"avx512_bf16", "avx512f"}, reason="this CPU has no avx512_bf16"
)


NETWORKS: dict[str, tuple[str, str, Mapping[str, Array], int, int]] = {
    **{
        name: (*network, beside)
        for (name, network), beside in zip(
            few_convolutions.NETWORKS.items(), (2, 3, 3, 2, 2, 2), strict=True
        )
    },
    "a gate, in float32": (
        "float[1,16,18,21] y",
        f"""a = {CONV}(x, w1)
            m = GlobalAveragePool(a)
            g = Conv(m, w3)
            s = Sigmoid(g)
            p = Mul(a, s)
            y = {CONV}(p, w2)""",
        {"w1": weights(16, 3, 3, 3), "w2": weights(16, 16, 3, 3), "w3": weights(16, 16, 1, 1)},
        2,
        5,
    ),
    "resizing, and a sum that no convolution takes": (
        "float[1,16,36,42] y",
        f"""a = {CONV}(x, w1)
            r = Resize<mode="linear">(a, , scales)
            c = {CONV}(r, w2)
            t = Add(r, r)
            d = {CONV}(t, w2)
            y = Add(c, d)""",
        {
            "w1": weights(40, 3, 3, 3),
            "w2": weights(16, 40, 3, 3),
            "scales": np.array([1, 1, 2, 2], np.float32),
        },
        3,
        5,
    ),
    "a transposed and a grouped convolution": (
        "float[1,32,36,42] y",
        f"""a = {CONV}(x, w1)
            u = ConvTranspose<strides=[2,2]>(a, w2)
            g = Conv<pads=[1,1,1,1], group=2>(u, w3)
            y = {CONV}(g, w4)""",
        {
            "w1": weights(32, 3, 3, 3),
            "w2": weights(32, 32, 2, 2),
            "w3": weights(32, 16, 3, 3),
            "w4": weights(32, 32, 3, 3),
        },
        4,
        3,
    ),
}


def written(case: str, proto: Proto, folder: Path) -> Path:
    outputs, body, constants, *_ = NETWORKS[case]
    path = folder / "n.onnx"
    onnx.save(proto("float[1,3,18,21] x", outputs, body, **constants), path)
    return path


@able
@pytest.mark.parametrize("case", NETWORKS)
def test_convolutions_are_of_bfloat16(case: str, proto: Proto, tmp_path: Path) -> None:
    path, bundle = written(case, proto, tmp_path), tmp_path / "n.graphopt"
    *_, count, beside = NETWORKS[case]
    compile_model(path, bundle, IN_BFLOAT16)
    runner = open_bundle(bundle)
    assert runner.bundle.manifest.precision == "bfloat16"
    plan = runner.bundle.plan
    kernels = [launch.kernel for launch in plan.launches if launch.stage == "network"]
    assert sum(kernel.startswith("conv_bf16") for kernel in kernels) == count, kernels
    # Beside them, conversions are part of what there is, and what comes and goes is float32.
    assert len(kernels) <= count + beside, kernels
    assert {plan.tensors[i].dtype for i in (*plan.inputs.values(), *plan.outputs.values())} == {
        "float32"
    }
    x = {"x": np.random.default_rng(1).standard_normal((1, 3, 18, 21), dtype=np.float32)}
    expected = OnnxRuntimeEngine(path.read_bytes()).run(x)["y"]
    rounding = rounded_to_bfloat16(onnx.load(path)).SerializeToString()
    other = OnnxRuntimeEngine(rounding, optimize=False).run(x)["y"]
    got = runner.run(x)["y"]

    def off(value: Array) -> float:
        return float(np.sqrt(np.mean(np.square(np.subtract(value, expected)))))

    assert 0.3 * off(other) < off(got) < 2 * off(other)


@able
def test_weights_take_half_the_size(proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "n.onnx"
    body = f"a = {CONV}(x, w)\n y = {CONV}(a, w)"
    big = {"w": weights(256, 256, 3, 3)}
    onnx.save(proto("float[1,256,9,20] x", "float[1,256,9,20] y", body, **big), path)
    sizes = {}
    for options in (CompileOptions(), IN_BFLOAT16):
        compile_model(path, tmp_path / "b", options)
        sizes[options.bf16] = (tmp_path / "b" / "weights.bin").stat().st_size
    assert sizes[True] == 2 * big["w"].size
    assert sizes[False] >= 4 * big["w"].size


@able
def test_what_rounding_does_not_explain_is_refused(proto: Proto, tmp_path: Path) -> None:
    path = written("a residual", proto, tmp_path)
    graph = load_model(path)
    rng = np.random.default_rng(0)
    inputs = [[{"x": rng.standard_normal((1, 3, 18, 21), dtype=np.float32)}]]
    right = OnnxRuntimeEngine(path.read_bytes()).run(inputs[0][0])["y"]
    rounding = rounded_to_bfloat16(onnx.load(path)).SerializeToString()
    rounded = OnnxRuntimeEngine(rounding, optimize=False).run(inputs[0][0])["y"]
    assert bfloat16_agreement(graph, inputs, [[{"y": rounded}]]).excess is None
    shifted = rounded.copy()
    shifted[:, 3] += 0.1 * float(np.ptp(right))  # one filter, as if its bias were another
    assert "rounding takes" in str(bfloat16_agreement(graph, inputs, [[{"y": shifted}]]).excess)
    spoilt = rounded.copy()
    spoilt[0, 0, 0, 0] = np.nan
    assert bfloat16_agreement(graph, inputs, [[{"y": spoilt}]]).excess


def test_a_wrong_bundle_is_a_sentence(
    proto: Proto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cpu_features() >= {"avx512_bf16"}:
        pytest.skip("this CPU has no avx512_bf16")
    path = written("a residual", proto, tmp_path)
    monkeypatch.setattr("graphopt.compiler.bfloat16.SPREAD", 0.0)
    monkeypatch.setattr("graphopt.compiler.bfloat16.FLOOR", 0.0)
    with pytest.raises(CheckFailed, match="differ from onnxruntime's") as caught:
        compile_model(path, tmp_path / "b", IN_BFLOAT16)
    assert "without --bf16" in (caught.value.hint or "")


def test_a_cpu_without_the_instructions_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("hosts", "targets.cpu"):
        monkeypatch.setattr(f"graphopt.codegen.{module}.this_host", lambda: "x86_64-linux-gnu")
    have = FEATURES["x86_64"]["avx512_vnni"]
    monkeypatch.setattr("graphopt.codegen.targets.cpu.cpu_features", lambda: have)
    monkeypatch.setattr("graphopt.codegen.hosts.cpu_features", lambda: have)
    needs = "needs a CPU with avx512_bf16 or amx_bf16, and this CPU"
    with pytest.raises(Unsupported, match=f"{needs} has avx2, avx512f, avx512_vnni") as caught:
        check_bfloat16("cpu", "", "")
    assert "--int8" in (caught.value.hint or "")
    with pytest.raises(Unsupported, match=f"{needs}, as far as --cpu-features lets it, has avx2\n"):
        check_bfloat16("cpu", "", "avx2")
    with pytest.raises(Unsupported, match=r"a CPU of aarch64-linux-gnu.* has asimd, asimddp"):
        check_bfloat16("cpu", "aarch64-linux-gnu", "asimddp")


def test_the_exit_code_is_that_of_other_machines(proto: Proto, tmp_path: Path) -> None:
    path = written("a residual", proto, tmp_path)
    given = ["compile", str(path), "-o", str(tmp_path / "b"), "--bf16", "--host"]
    told = "needs a CPU with bf16, and a CPU of aarch64-linux-gnu, as far as --cpu-features lets it"
    done = CliRunner().invoke(app, [*given, "aarch64-linux-gnu", "--cpu-features", "i8mm"])
    assert isinstance(done.exception, Unsupported)
    assert f"{told}, has asimd, asimddp, i8mm" in done.exception.message
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (replace(IN_BFLOAT16, fp16=True), "two precisions"),
        (replace(IN_BFLOAT16, target="opencl"), "opencl has no arithmetic in bfloat16"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(
    options: CompileOptions, told: str, proto: Proto, tmp_path: Path
) -> None:
    path = written("a residual", proto, tmp_path)
    with pytest.raises(UsageError, match=told):
        compile_model(path, tmp_path / "b", options)


@able
def test_a_quantised_network_is_refused(proto: Proto, tmp_path: Path) -> None:
    body = "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)"
    constants = {"s": np.float32(0.1), "z": np.uint8(3)}
    path = tmp_path / "q.onnx"
    onnx.save(proto("float[1,3,9,9] x", "float[1,3,9,9] y", body, **constants), path)
    with pytest.raises(UsageError, match="this one is quantised"):
        compile_model(path, tmp_path / "b", IN_BFLOAT16)


LIMITED = {"avx512_bf16": ("avx512_bf16",), "amx_bf16": ("amx_bf16", "amx_tile", "avx512_bf16")}


@pytest.mark.parametrize("name", LIMITED)
def test_kernels_use_only_the_features_that_are_named(
    name: str, proto: Proto, tmp_path: Path
) -> None:
    if not cpu_features() >= FEATURES["x86_64"][name]:
        pytest.skip(f"this CPU lacks {name}")
    path, bundle = written("a residual", proto, tmp_path), tmp_path / "b"
    compile_model(path, bundle, replace(IN_BFLOAT16, cpu_features=name))
    runner = open_bundle(bundle)
    needs = runner.bundle.manifest.target.cpu_features
    assert tuple(sorted(set(needs) - FEATURES["x86_64"]["avx512f"])) == LIMITED[name]
    assert ("amx" in str([launch.kernel for launch in runner.bundle.plan.launches])) == (
        name == "amx_bf16"
    )


@able
def test_the_command_says_what_it_made(proto: Proto, tmp_path: Path) -> None:
    path, bundle = written("a residual", proto, tmp_path), tmp_path / "b"
    said = CliRunner().invoke(app, ["compile", str(path), "-o", str(bundle), "--bf16"])
    assert said.exit_code == 0, said.output
    assert "target cpu, bfloat16" in said.output
    told = json.loads((bundle / "manifest.json").read_text())
    assert told["precision"] == "bfloat16"
