"""Bundles for other machines: linked for them, refused here, and honest about what runs where."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from graphopt.cli import app
from graphopt.codegen.hosts import FEATURES, HOSTS, named_features
from graphopt.codegen.linking import linker as hosts
from graphopt.codegen.targets import load_target
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.compiler.tvm_library import compile_library
from graphopt.errors import CheckFailed, InputError, Unsupported, UsageError
from graphopt.ir.input_shapes import format_input_shapes
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.cpu import cpu_features
from graphopt.runtime.open import open_bundle

pytestmark = pytest.mark.usefixtures("compile_once")

Proto = Callable[..., onnx.ModelProto]

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.onnx"
SMALL = {"image": (1, 3, 64, 96)}

C_LIBRARY = {"memset", "memcpy", "memmove"}
MATHEMATICS = {"expf", "exp2f", "logf", "powf", "tanhf", "floorf", "ceilf", "roundf", "fmodf"}
RUNNER = {"TVMFFIErrorSetRaisedFromCStrParts"}


@pytest.fixture
def readelf() -> Callable[..., str]:
    tool = shutil.which("readelf") or shutil.which("llvm-readelf")
    if tool is None:
        pytest.skip("there is no readelf (binutils)")
    if not shutil.which("ld.lld") and importlib.util.find_spec("ziglang") is None:
        pytest.skip("there is no linker for other machines (pip install 'graphopt[android]')")

    def read(*arguments: str | Path) -> str:
        command = [tool, "--wide", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return read


@pytest.mark.android
@pytest.mark.parametrize("host", [host for host in HOSTS if host.startswith("aarch64")])
def test_kernels_for_another_machine(
    host: str, readelf: Callable[..., str], tmp_path: Path
) -> None:
    # Tests of the device runner look at this job's bundle too.
    options = CompileOptions(host=host, input_shape=("1,3,256,456",), max_photo=1024)
    done = compile_model(DEMO, tmp_path / "b", options)
    assert "compiled for " + host in str(done.difference)
    library = tmp_path / "b" / "kernels.so"
    assert "AArch64" in readelf("--file-header", library)
    loads = re.findall(r"^ *LOAD .*\b(0x\w+)$", readelf("--segments", library), re.MULTILINE)
    assert loads
    assert {int(align, 16) % 0x4000 for align in loads} == {0}  # pages of 16 KB
    needed = re.findall(r"NEEDED.*\[(.*)\]", readelf("--dynamic", library))
    assert tuple(needed) == HOSTS[host].needed("libgraphopt.so")
    symbols = re.findall(r" UND (\w+)", readelf("--dyn-syms", library))
    assert RUNNER <= set(symbols) <= RUNNER | C_LIBRARY | MATHEMATICS
    with pytest.raises(Unsupported, match=f"compiled for {host}, and this is"):
        open_bundle(tmp_path / "b")


@pytest.mark.android
def test_kernels_for_another_pc(readelf: Callable[..., str], proto: Proto, tmp_path: Path) -> None:
    model = proto("float[1,3,9,11] x", "float[1,3,9,11] y", "y = Relu(x)")
    onnx.save(model, tmp_path / "net.onnx")
    host, library = "x86_64-linux-gnu", tmp_path / "b" / "kernels.so"
    done = compile_model(
        tmp_path / "net.onnx", tmp_path / "b", CompileOptions(host=host, cpu_features="avx2")
    )
    assert done.manifest.target.host == host
    assert done.manifest.target.cpu_features == ("avx2", "fma")
    assert "X86-64" in readelf("--file-header", library)
    needed = re.findall(r"NEEDED.*\[(.*)\]", readelf("--dynamic", library))
    assert tuple(needed) == HOSTS[host].needed("libgraphopt.so")
    # Where this is such a machine, it was compared.
    assert isinstance(done.difference, float) is (FEATURES["x86_64"]["avx2"] <= cpu_features())


@pytest.mark.android
def test_a_library_for_a_phone(readelf: Callable[..., str], proto: Proto, tmp_path: Path) -> None:
    onnx.save(proto("float[1,3,9,11] x", "float[1,3,9,11] y", "y = Relu(x)"), tmp_path / "net.onnx")
    host, library = "aarch64-linux-android", tmp_path / "net.so"
    done = compile_library(
        tmp_path / "net.onnx", library, CompileOptions(target="adreno", host=host)
    )
    assert "compiled for " + host in str(done.difference)
    assert any("images" in what for what in done.left_out)
    assert "AArch64" in readelf("--file-header", library)
    needed = re.findall(r"NEEDED.*\[(.*)\]", readelf("--dynamic", library))
    assert needed == ["libm.so", "libc.so", "libtvm_ffi.so"]
    symbols = re.findall(r" UND (\w+)", readelf("--dyn-syms", library))
    assert RUNNER <= set(symbols) <= RUNNER | C_LIBRARY


def test_an_unknown_host_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no host is called 'aarch64-apple-ios'") as caught:
        compile_model(DEMO, tmp_path / "b", CompileOptions(host="aarch64-apple-ios"))
    assert "aarch64-linux-android" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("host", "names", "hint"),
    [
        ("aarch64-linux-android", "asimddp,avx2", "asimd, asimdhp, asimddp, i8mm, bf16"),
        ("", "sse9", ""),
    ],
)
def test_an_unknown_feature_is_a_sentence(host: str, names: str, hint: str, tmp_path: Path) -> None:
    name = names.split(",")[-1]
    with pytest.raises(UsageError, match=f"no feature of .* is called '{name}'") as caught:
        compile_model(DEMO, tmp_path / "b", CompileOptions(host=host, cpu_features=names))
    assert hint in (caught.value.hint or "")


def test_a_feature_that_this_cpu_lacks_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.codegen.hosts.this_host", lambda: "x86_64-linux-gnu")
    monkeypatch.setattr("graphopt.codegen.hosts.cpu_features", lambda: {"avx2", "fma"})
    assert named_features("avx2") == {"avx2", "fma"}
    with pytest.raises(Unsupported, match="lacks avx512_vnni, avx512dq, avx512f, avx512vl"):
        named_features("avx512_vnni, avx2")


LIMITED = {
    "avx2": (8, "avx2", ""),
    "avx512f": (16, "", ""),
    "avx512_vnni": (16, "avx512_vnni", ""),
    "amx_int8,avx2": (16, "avx512_vnni", "amx_int8"),
}


@pytest.mark.parametrize("names", LIMITED)
def test_kernels_use_only_the_features_that_are_named(
    names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    have = {feature for every in FEATURES["x86_64"].values() for feature in every}
    monkeypatch.setattr("graphopt.codegen.hosts.this_host", lambda: "x86_64-linux-gnu")
    monkeypatch.setattr("graphopt.codegen.hosts.cpu_features", lambda: have)
    target = load_target("cpu", features=names)
    assert (target.lanes, target.dot, target.tiles) == LIMITED[names]
    # Nor does LLVM by itself.
    assert target.tvm["mcpu"] == ("x86-64-v3" if target.lanes == 8 else "x86-64-v4")


def test_a_bundle_of_limited_features(proto: Proto, tmp_path: Path) -> None:
    if not FEATURES["x86_64"]["avx2"] <= cpu_features():
        pytest.skip("this CPU has no AVX2")
    path = tmp_path / "net.onnx"
    onnx.save(proto("float[1,3,9,11] x", "float[1,3,9,11] y", "y = Relu(x)"), path)
    compile_model(path, tmp_path / "b", CompileOptions(cpu_features="avx2"))
    assert read_bundle(tmp_path / "b").manifest.target.cpu_features == ("avx2", "fma")


def test_a_missing_linker_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(hosts, "find_ndk", lambda: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unsupported, match="lacks") as caught:
        hosts.link([tmp_path / "a.o"], tmp_path / "k.so", "aarch64-linux-android")
    assert "graphopt[android]" in (caught.value.hint or "")
    with pytest.raises(Unsupported, match="no C compiler"):
        hosts.link([tmp_path / "a.o"], tmp_path / "k.so")


def test_a_cpu_is_not_a_gpu(proto: Proto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(proto("float[1,3,9,11] x", "float[1,3,9,11] y", "y = Relu(x)"), path)
    with pytest.raises(CheckFailed, match=r"a CPU would do the network \(--target cpu\)"):
        compile_model(path, tmp_path / "b", CompileOptions(require_full_gpu=True))
    assert not (tmp_path / "b").exists()
    compile_model(path, tmp_path / "b", CompileOptions(target="mali", require_full_gpu=True))
    assert read_bundle(tmp_path / "b").manifest.runs == {"network": "gpu"}


def test_where_everything_runs(tmp_path: Path) -> None:
    bundle = tmp_path / "b"
    given = CompileOptions(
        target="opencl",
        host="aarch64-linux-android",
        input_shape=format_input_shapes(SMALL),
        max_photo=0,
    )
    with pytest.raises(CheckFailed, match="a CPU would do pre-processing"):
        compile_model(DEMO, bundle, replace(given, require_full_gpu=True))
    compile_model(DEMO, bundle, given)
    assert read_bundle(bundle).manifest.runs == {
        "prepare": "host",
        "network": "gpu",
        "decode": "gpu",
    }
    said = CliRunner().invoke(app, ["inspect", str(bundle), "--json"])
    steps = json.loads(said.stdout)["steps"]
    assert [s["stage"] for s in steps if s["runs_on"] == "host"] == ["prepare"]
    assert {s["layer"] for s in steps if s["runs_on"] == "gpu"} > {"heat/Conv", "paf/Conv"}
    assert "1 on host" in CliRunner().invoke(app, ["inspect", str(bundle)]).stdout


def test_a_bundle_names_its_licences(proto: Proto, tmp_path: Path) -> None:
    model = proto("float[1,3,9,11] x", "float[1,3,9,11] y", "y = Relu(x)")
    model.metadata_props.add(key="license", value="CC-BY-4.0")
    onnx.save(model, tmp_path / "net.onnx")
    compile_model(tmp_path / "net.onnx", tmp_path / "b")
    notice = (tmp_path / "b" / "NOTICE").read_text()
    assert "Apache License 2.0" in notice
    assert "The file says: CC-BY-4.0." in notice
