"""Libraries for TVM's own runtime: as right as bundles are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from graphopt import library
from graphopt.bundle import Manifest
from graphopt.cli import app
from graphopt.engine import OnnxRuntimeEngine
from graphopt.errors import CheckFailed, InputError
from graphopt.library import compile_library

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
    expected = OnnxRuntimeEngine(DEMO).run({"image": image})
    manifest = Manifest.model_validate_json(machine["graphopt_manifest"]())
    assert list(manifest.inputs.items()) == [("image", SMALL)]
    for got, (name, shape) in zip(maps, manifest.outputs.items(), strict=True):
        assert got.shape == shape
        np.testing.assert_allclose(got.numpy(), expected[name], atol=1e-4)


def test_wrong_outputs_are_not_written(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "difference", lambda *_: 2e-3)
    with pytest.raises(CheckFailed, match=r"differ from onnxruntime's by 2\.0e-03"):
        compile_library(net, net.with_name("net.so"))
    assert not net.with_name("net.so").exists()


def test_what_cannot_be_a_library_is_refused(net: Path) -> None:
    with pytest.raises(InputError, match="is no name for a library"):
        compile_library(net, net.with_name("bundle"))
    said = CliRunner().invoke(app, ["compile", str(net), "-o", "n.so", "--format", "tvm", "--fp16"])
    assert said.exit_code == 2
    assert "--format tvm is float32" in said.output
