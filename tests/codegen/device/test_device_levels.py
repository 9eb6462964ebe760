"""Bundles for several kinds of CPUs in the device runner: it chooses as Python does."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from quantised_networks import quantise

from graphopt.codegen.hosts import FEATURES
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.pose.detect import detect_pose_spec
from graphopt.pose.estimate import Estimator
from graphopt.pose.open import open_engine
from graphopt.pose.preprocess import prepare
from graphopt.runtime.bundle import sha256
from graphopt.runtime.cpu import cpu_features
from graphopt.runtime.levels import LIMIT

ROOT = Path(__file__).resolve().parents[3]
Proto = Callable[..., onnx.ModelProto]
Family = Callable[..., Path]
SIZE = (96, 160)
WEIGHTS = {
    "w1": (32, 3, 3, 3),
    "w2": (32, 1, 3, 3),
    "w3": (64, 32, 1, 1),
    "w4": (64, 64, 3, 3),
    "wh": (19, 64, 1, 1),
    "wp": (38, 64, 1, 1),
}


@pytest.fixture
def network(proto: Proto, photo: Path, tmp_path: Path) -> Path:
    """A pose network in eight bits, small and untrained: it sees people everywhere."""
    rng = np.random.default_rng(0)
    weights = {
        name: np.float32(2 * rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])))
        for name, shape in WEIGHTS.items()
    }
    model = proto(
        "float[1,3,96,160] image",
        "float[1,19,12,20] heat, float[1,38,12,20] paf",
        """a = Conv<pads=[1,1,1,1], strides=[2,2]>(image, w1) b = Relu(a)
           c = Conv<pads=[1,1,1,1], strides=[2,2], group=32>(b, w2) d = Relu(c)
           e = Conv(d, w3) f = Relu(e)
           g = Conv<pads=[1,1,1,1], strides=[2,2]>(f, w4) h = Relu(g)
           heat = Conv(h, wh) paf = Conv(h, wp)""",
        **weights,
    )
    onnx.save(model, tmp_path / "pose.onnx")
    spec = detect_pose_spec(tmp_path / "pose.onnx")
    with Image.open(photo) as image:
        tensor, _ = prepare(image.convert("RGB"), spec.preprocess, SIZE)
    return quantise(tmp_path / "pose.onnx", tmp_path / "int8.onnx", [{"image": tensor}])


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's photo, as PPM."""
    path = tmp_path_factory.mktemp("photo") / "demo.ppm"
    with Image.open(ROOT / "examples" / "demo.png") as image:
        image.convert("RGB").resize((320, 192)).save(path)
    return path


@pytest.fixture
def family(network: Path, tmp_path: Path) -> Family:
    """The network, compiled for the levels of a host."""

    def make(host: str, *levels: str) -> Path:
        if shutil.which("ld.lld") is None and importlib.util.find_spec("ziglang") is None:
            pytest.skip("there is no linker for other machines (pip install 'graphopt[android]')")
        options = CompileOptions(host=host, cpu_levels=levels, max_photo=512)
        compile_model(network, tmp_path / "pose.graphopt", options)
        return tmp_path / "pose.graphopt"

    return make


def run(runner: Path, bundle: Path, photo: Path, **variables: str) -> Any:
    """What the program says as JSON, or its complaint."""
    done = subprocess.run(
        [runner, bundle, "--rgb", photo, "--json", "--details", "--threads", "1"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return json.loads(done.stdout)[0] if not done.returncode else done.stderr


def rewritten(bundle: Path, copy: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a bundle with another manifest."""
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


@pytest.mark.android
def test_a_phone_takes_the_best_that_it_has(
    emulated: Path, family: Family, photo: Path, tmp_path: Path
) -> None:
    bundle = family("aarch64-linux-gnu")
    found = {}
    for cpu, limit, level in (
        ("max", "", "i8mm"),
        ("max", "asimddp", "asimddp"),
        ("max", "asimd", "asimd"),
        ("neoverse-n1", "", "asimddp"),
        ("cortex-a53", "", "asimd"),
        ("cortex-a53", "i8mm", "asimd"),
    ):
        said = run(emulated, bundle, photo, QEMU_CPU=cpu, **{LIMIT: limit})
        assert said["device"] == f"cpu, {level}"
        found[cpu, limit] = said["people"]
    # Products of bytes are exact whoever makes them.
    assert all(people == found["max", ""] for people in found.values())
    assert found["max", ""]
    newer = rewritten(bundle, tmp_path / "newer", lambda manifest: manifest["levels"].pop())
    assert run(emulated, newer, photo, QEMU_CPU="cortex-a53") == (
        f"error: {newer} has kernels for CPUs with asimd, asimddp, i8mm; or with asimd, asimddp; "
        "this one has asimd; compile it for this one\n"
    )


@pytest.mark.android
def test_each_level_finds_what_python_finds(
    runner: Path, family: Family, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = [
        name for name in ("avx512_vnni", "avx2") if FEATURES["x86_64"][name] <= cpu_features()
    ]
    if not levels:
        pytest.skip("this CPU has no AVX2")
    bundle = family("x86_64-linux-gnu", "avx2", "avx512_vnni")
    for level in levels:
        monkeypatch.setenv(LIMIT, level)
        engine, spec = open_engine(bundle)
        with Image.open(photo) as image:
            wanted = Estimator(engine, spec)(image.convert("RGB")).people
        said = run(runner, bundle, photo)
        assert said["device"] == f"cpu, {level}"
        assert len(said["people"]) == len(wanted) > 0
        for person, other in zip(said["people"], wanted, strict=True):
            assert person["score"] == pytest.approx(other.score, abs=1e-3)
    monkeypatch.setenv(LIMIT, "sse9")
    assert "has no level sse9 (GRAPHOPT_CPU_LEVEL), but avx512_vnni, avx2" in run(
        runner, bundle, photo
    )
    monkeypatch.setenv(LIMIT, "avx2")
    weights = bundle / "weights-avx2.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert f"{weights} is damaged" in run(runner, bundle, photo)
    weights.write_bytes(whole)

    def elsewhere(manifest: dict[str, Any]) -> None:
        plan = (bundle / "plan-avx2.json").read_bytes()
        (tmp_path / "plan.json").write_bytes(plan)
        manifest["levels"][1]["plan"] = "../plan.json"
        manifest["files"]["../plan.json"] = {"bytes": len(plan), "sha256": sha256(plan)}

    escaping = rewritten(bundle, tmp_path / "escaping", elsewhere)
    assert "levels[1].plan is not the name of a file" in run(runner, escaping, photo)
