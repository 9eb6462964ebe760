"""The contest as users run it: each engine in its best precision, judged by the people it finds."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from rich.console import Console

from graphopt.bench import benchmark, competitors
from graphopt.bench.bench_report import BenchReport
from graphopt.bench.options import BenchOptions
from graphopt.bench.pose_oks import photos_in, pose_oks
from graphopt.compiler.options import CompileOptions
from graphopt.errors import InputError, UsageError
from graphopt.ir.arrays import Array
from graphopt.ir.files import sha256_of
from graphopt.pose.detect import detect_pose_spec
from graphopt.runtime.bundle import read_bundle, write_bundle
from graphopt.runtime.engine import Engine, OnnxRuntimeEngine
from graphopt.runtime.plan import Launch, Model, Plan, Tensor
from graphopt.runtime.precision import bundle_precision

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo.onnx"
PHOTO = ROOT / "examples" / "demo.png"
BRIEF = BenchOptions(threads=1, num_runs=1, warmup_runs=0)


@pytest.fixture
def quantised(tmp_path: Path) -> Path:
    """The demo network with its input rounded to steps."""
    model = onnx.load(DEMO)
    for node in model.graph.node:
        node.input[:] = ["image_rounded" if name == "image" else name for name in node.input]
    between = {"inputs": ["image", "step", "zero"], "outputs": ["image_steps"]}
    after = {"inputs": ["image_steps", "step", "zero"], "outputs": ["image_rounded"]}
    model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", **after))
    model.graph.node.insert(0, onnx.helper.make_node("QuantizeLinear", **between))
    constants = {"step": np.float32(0.05), "zero": np.uint8(128)}
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    path = tmp_path / "demo.int8.onnx"
    onnx.save(model, path)
    return path


class Asked:
    """A competitor that notes what it is asked for, and has bfloat16."""

    def __init__(self) -> None:
        self.jobs: list[competitors.Job] = []

    def __call__(self, job: competitors.Job) -> Engine:
        self.jobs.append(job)
        engine = OnnxRuntimeEngine(job.model, threads=1)
        engine.precision = "bfloat16" if job.best else "float32"  # type: ignore[attr-defined]
        return engine


@pytest.fixture
def swift(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """The only competitor beside onnxruntime."""
    asked = Asked()
    table = {
        "onnxruntime": competitors.COMPETITORS["onnxruntime"],
        "swift": competitors.Competitor(asked, "pip install swift", left_out="No int8 of swift."),
    }
    monkeypatch.setattr(competitors, "COMPETITORS", table)
    return asked


def shown(report: BenchReport) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(report)
    return capture.get()


def test_engines_with_int8_run_the_quantised_file_too(
    bundle: Path, quantised: Path, swift: Asked
) -> None:
    vs = ("onnxruntime", "swift")
    report = benchmark.bench(bundle, replace(BRIEF, vs=vs, quantized=quantised))
    assert report.contest == "best"
    assert report.precision == {
        "graphopt": "float32",
        "onnxruntime": "float32",
        "onnxruntime int8": "int8",
        "swift": "bfloat16",
    }
    assert set(report.engines) == set(report.precision) == {*report.ratios, "graphopt"}
    assert report.files["onnxruntime int8"] == str(quantised)
    assert report.files["swift"] == report.files["graphopt"]
    assert max(report.difference.values()) < 1e-5  # each from its own network's outputs
    assert "onnxruntime int8" in report.memory
    assert report.notes == ("No int8 of swift.",)
    assert [job.best for job in swift.jobs] == [True]


def test_a_contest_in_float32_is_of_one_network(
    bundle: Path, quantised: Path, swift: Asked
) -> None:
    options = replace(BRIEF, vs=("onnxruntime", "swift"), quantized=quantised, contest="float32")
    report = benchmark.bench(bundle, options)
    assert set(report.precision.values()) == {"float32"}
    assert set(report.engines) == {"graphopt", "onnxruntime", "swift"}
    assert not report.notes
    assert [job.best for job in swift.jobs] == [False]


def test_a_contest_in_float32_holds_the_bundle_to_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def compiling(_: Path, place: Path, options: CompileOptions, **rest: object) -> None:
        asked.append(options.precision)
        shutil.copytree(bundle, place)

    monkeypatch.setattr(benchmark, "compile_model", compiling)
    for contest in ("float32", "best"):
        benchmark.bench(DEMO, replace(BRIEF, contest=contest))
    assert asked == ["float32", None]
    found = read_bundle(bundle)
    files = {name: found.read(name) for name in ("plan.json", "weights.bin")}
    write_bundle(bundle, replace(found.manifest, precision="bfloat16"), files)
    with pytest.raises(UsageError, match="computes in bfloat16") as refused:
        benchmark.bench(bundle, replace(BRIEF, contest="float32"))
    assert "--precision float32" in (refused.value.hint or "")


def test_without_a_quantised_file_it_is_said_whose_int8_is_missing(bundle: Path) -> None:
    report = benchmark.bench(bundle, BRIEF)
    assert report.notes == (
        "int8 of onnxruntime is left out: no quantised file (--quantized Q.onnx).",
    )
    assert "--quantized Q.onnx" in shown(report)


def test_a_quantised_networks_bundle_brings_its_file(bundle: Path, quantised: Path) -> None:
    found = read_bundle(bundle)
    model = Model(path=str(quantised), sha256=sha256_of(quantised))
    files = {name: found.read(name) for name in ("plan.json", "weights.bin")}
    write_bundle(bundle, replace(found.manifest, model=model), files)
    report = benchmark.bench(bundle, replace(BRIEF, original=DEMO))
    assert {name: Path(file) for name, file in report.files.items()} == {
        "graphopt": quantised,
        "onnxruntime": DEMO,
        "onnxruntime int8": quantised,
    }


def test_people_stand_beside_the_originals(bundle: Path) -> None:
    found = read_bundle(bundle)
    files = {name: found.read(name) for name in ("plan.json", "weights.bin")}
    files["pose.json"] = detect_pose_spec(DEMO).to_json().encode()
    write_bundle(bundle, found.manifest, files)
    report = benchmark.bench(bundle, replace(BRIEF, images=PHOTO.parent))
    pictures = len(list(PHOTO.parent.glob("*.png")))
    assert report.photos == pictures
    assert report.oks in ({}, {"graphopt": 1.0, "onnxruntime": 1.0})
    assert "no photos" in shown(benchmark.bench(bundle, BRIEF))


class Blind(OnnxRuntimeEngine):
    """Finds nobody."""

    name = "blind"

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {name: np.zeros_like(value) for name, value in super().run(feeds).items()}


def test_who_finds_other_people_is_less_alike() -> None:
    right, blind = OnnxRuntimeEngine(DEMO, threads=1), Blind(DEMO, threads=1)
    for engine in (right, blind):
        engine.inputs = {"image": (1, 3, 256, 384)}
    spec = detect_pose_spec(DEMO)
    assert pose_oks([right, blind], right, spec, photos_in(PHOTO)) == {
        "onnxruntime": 1.0,
        "blind": 0.0,
    }
    assert pose_oks([right, blind], blind, spec, [PHOTO]) == {}


def test_a_folder_without_photos_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="there is no photo"):
        benchmark.bench(bundle, replace(BRIEF, images=tmp_path / "none"))


def test_a_bundles_precision_is_that_of_its_tensors() -> None:
    kinds = ("float32", "int8", "float16", "uint8", "bfloat16")
    places = (0, -1, -1, 0, 0)
    tensors = tuple(Tensor((1,), k, place) for k, place in zip(kinds, places, strict=True))

    def told(*arguments: int, precision: str = "") -> str:
        launches = (Launch("k", arguments, "l"), Launch("p", (3,), "p", stage="prepare"))
        plan = Plan(tensors=tensors, launches=launches)
        manifest = SimpleNamespace(precision=precision)
        return bundle_precision(SimpleNamespace(plan=plan, manifest=manifest))  # type: ignore[arg-type]

    assert told(0) == "float32"
    assert told(0, 1) == "int8 weights"
    assert told(0, 1, 3) == "int8"
    assert told(0, 2, 4) == "bfloat16, float16 weights"
    assert told(0, precision="bfloat16") == "bfloat16"


def test_lower_precision_is_judged_by_people(bundle: Path) -> None:
    report = benchmark.bench(bundle, BRIEF)
    off = replace(report, difference={"graphopt": 0.2, "onnxruntime": 0.0})
    assert off.wrong("graphopt")
    half = replace(off, precision={"graphopt": "bfloat16"})
    assert not half.wrong("graphopt")
    assert not replace(half, oks={"graphopt": 0.95}).wrong("graphopt")
    assert replace(half, oks={"graphopt": 0.85}).wrong("graphopt")
    assert replace(half, difference={"graphopt": float("inf")}).wrong("graphopt")
