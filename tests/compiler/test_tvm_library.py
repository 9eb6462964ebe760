"""Libraries for TVM's own runtime: as right as bundles are, and measured through its RPC."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from graphopt.cli import app
from graphopt.compiler.options import CompileOptions
from graphopt.compiler.tvm_library import compile_library
from graphopt.devices import rpc_benchmark as remote
from graphopt.devices.rpc_benchmark import bench_library
from graphopt.errors import CheckFailed, InputError
from graphopt.runtime.differences import Agreement
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.plan import Manifest

Proto = Callable[..., onnx.ModelProto]

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.onnx"
SMALL = (1, 3, 64, 96)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo network's library for this CPU; the network lies beside it."""
    folder = tmp_path_factory.mktemp("library")
    shutil.copy(DEMO, folder / "demo.onnx")
    given = ["compile", folder / "demo.onnx", "-o", folder / "demo.so", "--format", "tvm"]
    size = ",".join(map(str, SMALL))
    said = CliRunner().invoke(app, [*map(str, given), "--input-shape", size])
    assert said.exit_code == 0, said.output
    assert "outputs equal onnxruntime's within" in said.output
    assert "left out: pre-processing and decoder" in said.output
    return folder / "demo.so"


@pytest.fixture
def net(proto: Proto, tmp_path: Path) -> Path:
    onnx.save(proto("float[1,3,9,11] x", "float[1,3,9,11] y", "y = Relu(x)"), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_it_runs_in_tvms_virtual_machine(demo: Path) -> None:
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.runtime.load_module(str(demo)), tvm.cpu())
    image = np.random.default_rng(0).random(SMALL, np.float32)
    maps = machine["main"](tvm.runtime.tensor(image))
    expected: Mapping[str, np.ndarray] = OnnxRuntimeEngine(DEMO).run({"image": image})
    manifest = Manifest.from_json(machine["graphopt_manifest"]())
    assert list(manifest.inputs.items()) == [("image", SMALL)]
    for got, (name, shape) in zip(maps, manifest.outputs.items(), strict=True):
        assert got.shape == shape
        np.testing.assert_allclose(got.numpy(), expected[name], atol=1e-4)


def test_wrong_outputs_are_not_written(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Agreement(2e-3, excess="")
    monkeypatch.setattr(
        "graphopt.compiler.tvm_library.agreement_with_onnxruntime", lambda *_: wrong
    )
    with pytest.raises(CheckFailed, match=r"differ from onnxruntime's by 2\.0e-03"):
        compile_library(net, net.with_name("net.so"))
    assert not net.with_name("net.so").exists()


def test_what_cannot_be_a_library_is_refused(net: Path) -> None:
    with pytest.raises(InputError, match="is no name for a library"):
        compile_library(net, net.with_name("bundle"))
    for lower in (["--fp16"], ["--device", "adreno-640"]):
        given = ["compile", str(net), "-o", "n.so", "--format", "tvm", *lower]
        said = CliRunner().invoke(app, given)
        assert said.exit_code == 2
        assert "--format tvm is float32" in said.output


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if find_spec("cloudpickle") is None:
        pytest.skip("TVM's RPC server needs cloudpickle (pip install cloudpickle)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = ["--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tvm.exec.rpc_server", *where],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr
    try:
        assert any("bind to" in line for line in process.stderr)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it has children
        process.wait()
        process.stderr.close()


def test_measured_through_rpc(demo: Path, server: str, tmp_path: Path) -> None:
    wanted = [*f"bench {demo} --rpc {server} --num-runs 4 --warmup-runs 1".split(), "--result-json"]
    said = CliRunner().invoke(app, [*wanted, str(tmp_path / "r.json")])
    assert said.exit_code == 0, said.output
    assert "outputs differ from onnxruntime's by" in said.output
    result = json.loads((tmp_path / "r.json").read_text())
    assert 0 < result["engines"]["graphopt"]["p10_ms"] <= result["engines"]["graphopt"]["median_ms"]
    assert result["difference"]["graphopt"] < 1e-4
    assert result["input"] == {"image": list(SMALL)}

    network = demo.with_name("demo.onnx")
    network.rename(tmp_path / "elsewhere.onnx")
    report = bench_library(demo, server, rounds=1, warmup_rounds=0)
    assert report.difference == {}
    assert report.unavailable == {"onnxruntime": f"{network} is gone or has changed"}


def test_a_server_without_the_device_says_so(net: Path, server: str) -> None:
    done = compile_library(net, net.with_name("net.so"), CompileOptions(target="opencl"))
    if isinstance(done.difference, float):
        pytest.skip("TVM's runtime has OpenCL here")
    assert "no device for opencl" in done.difference
    with pytest.raises(InputError, match=r"the server cannot load net\.so: .*opencl"):
        bench_library(net.with_name("net.so"), server)


def test_nobody_there_and_nobody_who_answers(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        monkeypatch.setattr(remote, "PATIENCE", MappingProxyType({"connect": 1}))
        with pytest.raises(
            InputError, match=f"no result from {address}, in phase connect: it took"
        ):
            bench_library(demo, address)
    with pytest.raises(InputError, match=f"no RPC server of TVM answers at {address}"):
        bench_library(demo, address)


@pytest.mark.parametrize("server", ["127.0.0.1", "localhost:http", ":9090", "a:99999"])
def test_an_address_has_a_port(server: str, demo: Path) -> None:
    with pytest.raises(InputError, match="is no HOST:PORT"):
        bench_library(demo, server)


def test_only_libraries_are_sent(net: Path) -> None:
    with pytest.raises(InputError, match="is no library") as caught:
        bench_library(net, "127.0.0.1:9")
    assert "--format tvm" in (caught.value.hint or "")
    said = CliRunner().invoke(app, ["bench", str(net), "--rpc", "127.0.0.1:9", "--per-layer"])
    assert said.exit_code == 2
