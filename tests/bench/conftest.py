"""A bundle without kernels, to be measured."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from graphopt.bench import benchmark, contest
from graphopt.bench.roofline import Peak
from graphopt.ir.arrays import Array
from graphopt.ir.files import sha256_of
from graphopt.runtime.bundle import read_bundle, write_bundle
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.plan import FORMAT, BundleTarget, Manifest, Model, Plan, Tensor
from graphopt.runtime.runner import LayerTime

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.onnx"
SIZE = (1, 3, 64, 96)


class FakeBundle(OnnxRuntimeEngine):
    """A bundle's runner whose numbers come from onnxruntime."""

    name = "graphopt"

    def __init__(self, path: Path, threads: int) -> None:
        super().__init__(read_bundle(path).source(), threads=threads)
        self.inputs = {"image": SIZE}

    def profile(self, feeds: Mapping[str, Array], runs: int) -> list[LayerTime]:
        return [
            LayerTime("stem", "conv_dense", 0.5, 1_000_000, 3_000_000),
            LayerTime("concatenate", "concatenate", 1.5, 0, 9_000_000),
        ]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of the demo network that has no kernels: it is opened as a `FakeBundle`."""
    model = tmp_path / "demo.onnx"
    shutil.copy(DEMO, model)
    manifest = Manifest(
        format=FORMAT,
        graphopt="0",
        tvm="0",
        target=BundleTarget(name="cpu", kind="cpu", host="", description=""),
        model=Model(path=str(model), sha256=sha256_of(model)),
        inputs={"image": SIZE},
        outputs={},
        macs=0,
        runs={},
        files={},
    )
    image = Tensor(shape=SIZE, dtype="float32", arena=None, offset=0)
    plan = Plan(arenas=(), tensors=(image,), launches=(), inputs={"image": 0}, outputs={})
    folder = tmp_path / "demo.graphopt"
    write_bundle(folder, manifest, {"plan.json": plan.to_json().encode(), "weights.bin": b""})
    monkeypatch.setattr(
        contest, "open_bundle", lambda path, threads: FakeBundle(path, threads=threads)
    )
    monkeypatch.setattr(
        benchmark, "measure_peak", lambda target, threads: Peak(gflops=16, gbytes=8)
    )
    return folder
