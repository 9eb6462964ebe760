"""Measuring engines in turns: the order, the sums, and what is said of engines that fail."""

from __future__ import annotations

import re
import shutil
import sys
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from known import constant_in
from rich.console import Console

from graphopt.bench import bench_report, benchmark, competitors, contest, turns
from graphopt.bench.memory_usage import peak_memory
from graphopt.bench.options import BenchOptions
from graphopt.errors import GraphoptError, InputError, Unsupported, UsageError
from graphopt.ir.arrays import Array, Shape
from graphopt.ir.files import sha256_of
from graphopt.ir.input_shapes import format_input_shapes
from graphopt.ir.onnx_io import load_model, save_model
from graphopt.pose.detect import detect_pose_spec
from graphopt.runtime.bundle import read_bundle, write_bundle
from graphopt.runtime.engine import Engine, OnnxRuntimeEngine
from graphopt.runtime.plan import Model

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo.onnx"
SIZE = (1, 3, 64, 96)


class Clock:
    """Time that passes only when a fake engine runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeEngine:
    """Takes its next duration, in milliseconds, from a list; remembers in a log that it ran."""

    inputs: Mapping[str, Shape] = MappingProxyType({"x": (1,)})
    outputs: Sequence[str] = ("y",)
    overhead = 0.0

    def __init__(
        self, name: str, clock: Clock, log: list[str], durations: Callable[[int], float]
    ) -> None:
        self.name, self._clock, self._log, self._durations = name, clock, log, durations
        self._runs = 0

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self._clock.now += self._durations(self._runs) / 1e3
        self._runs += 1
        self._log.append(self.name)
        return {"y": np.ones(1, np.float32)}


def test_engines_take_turns_in_rotating_order() -> None:
    clock = Clock()
    log: list[str] = []
    engines = [FakeEngine(name, clock, log, lambda _: 1.0) for name in "abc"]
    rounds: list[int] = []
    turns.measure(
        engines,
        {},
        rounds=3,
        warmup_rounds=0,
        pause=0,
        after_round=lambda: rounds.append(1),
        clock=clock,
    )
    taken = log[::2]
    assert log[1::2] == taken  # each turn is two runs
    assert ["".join(taken[i : i + 3]) for i in (0, 3, 6)] == ["abc", "bca", "cab"]
    assert len(rounds) == 3


def test_only_second_runs_after_the_warm_up_count() -> None:
    clock = Clock()
    # Runs 0 to 3 are the warm-up's; of the rest the even ones open a turn.
    slow_start = FakeEngine(
        "a", clock, [], lambda run: 1000.0 if run < 4 or run % 2 == 0 else 2.0 + run
    )
    times = turns.measure([slow_start], {}, rounds=2, warmup_rounds=2, pause=0, clock=clock)
    np.testing.assert_allclose(times, [[7.0, 9.0]])


def test_what_lies_between_two_processes_does_not_count() -> None:
    clock = Clock()
    engine = FakeEngine("a", clock, [], lambda run: 5.0)
    engine.overhead = 2e-3
    times = turns.measure([engine], {}, rounds=1, warmup_rounds=0, pause=0, clock=clock)
    np.testing.assert_allclose(times, [[3.0]])


def test_ratios_are_of_medians_and_spread_is_within_rounds() -> None:
    # The machine is three times slower in the last round: the ratio must not care.
    machine = np.array([1.0, 1.0, 3.0])
    timings, ratios, spread = turns.summarise(
        ["graphopt", "other"], np.stack([2.0 * machine, 4.0 * machine])
    )
    assert timings["graphopt"].median_ms == pytest.approx(2.0)
    assert timings["other"].p90_ms == pytest.approx(np.percentile(4.0 * machine, 90))
    assert ratios == {"other": pytest.approx(0.5)}
    assert spread["other"] == pytest.approx((0.5, 0.5))


def test_without_graphopt_there_is_no_ratio() -> None:
    timings, ratios, _ = turns.summarise(["a", "b"], np.ones((2, 3)))
    assert set(timings) == {"a", "b"}
    assert ratios == {}


def test_a_wrong_answer_shows_and_a_failing_engine_is_named() -> None:
    clock = Clock()

    def broken() -> Engine:
        raise Unsupported("no such thing", hint="pip install it")

    def fails(run: int) -> float:
        raise RuntimeError("out of memory")

    result = turns.line_up(
        {
            "right": lambda: FakeEngine("right", clock, [], lambda _: 1.0),
            "broken": broken,
            "fails": lambda: FakeEngine("fails", clock, [], fails),
        },
        {},
        {"y": np.full(1, 1.5, np.float32)},
    )
    assert [engine.name for engine in result.engines] == ["right"]
    assert result.difference["right"] == pytest.approx(0.5 / 1.5)
    assert "pip install it" in result.unavailable["broken"]
    assert result.unavailable["fails"] == "out of memory"


def test_an_engine_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InputError, match="'onnxruntme'") as caught:
        competitors.check_names(["openvino", "onnxruntme"])
    assert "onnxruntime, openvino, ncnn" in str(caught.value)


def _job(name: str, scratch: Path, threads: int = 1) -> tuple[competitors.Job, dict[str, Array]]:
    feeds: dict[str, Array] = {
        "image": np.random.default_rng(0).uniform(-1, 1, SIZE).astype(np.float32)
    }
    expected = OnnxRuntimeEngine(DEMO, threads=1).run(feeds)
    outputs = {n: v.shape for n, v in expected.items()}
    place = scratch / name
    place.mkdir()
    return competitors.Job(DEMO, {"image": SIZE}, outputs, threads, place), feeds


def test_an_engine_that_is_not_installed_comes_with_its_pip_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def absent(job: competitors.Job) -> Engine:
        raise ModuleNotFoundError("No module named 'swift'")

    table = {"swift": competitors.Competitor(absent, "pip install swift")}
    monkeypatch.setattr(competitors, "COMPETITORS", table)
    job, _ = _job("swift", tmp_path)
    with pytest.raises(Unsupported, match="swift is not installed") as caught:
        competitors.open_competitor("swift", job)
    assert caught.value.hint == "pip install swift"


def test_an_engine_that_crashes_on_the_network_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def crashes(job: competitors.Job) -> Engine:
        raise RuntimeError("first line\nsecond line")

    table = {"swift": competitors.Competitor(crashes, "pip install swift")}
    monkeypatch.setattr(competitors, "COMPETITORS", table)
    job, _ = _job("swift", tmp_path)
    with pytest.raises(Unsupported, match=r"cannot load the network: first line$"):
        competitors.open_competitor("swift", job)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.opencl] if name == "tinygrad" else [])
        for name in competitors.COMPETITORS
    ],
)
def test_competitors_agree_with_onnxruntime(name: str, tmp_path: Path) -> None:
    job, feeds = _job(name, tmp_path)
    try:
        engine = competitors.open_competitor(name, job)
    except Unsupported as error:
        if "is not installed" not in error.message:
            raise
        pytest.skip(error.message)
    # The demo's BatchNormalization leaves epsilon out: 1e-5 to ONNX, 0 to MNN.
    _agrees(engine, feeds, 0.03 if name == "mnn" else 1e-4)


def _agrees(engine: Engine, feeds: Mapping[str, np.ndarray], tolerance: float = 1e-4) -> None:
    expected: Mapping[str, np.ndarray] = OnnxRuntimeEngine(DEMO, threads=1).run(feeds)
    for _ in range(2):  # the second answer must not be the first one's memory
        before = {name: value.copy() for name, value in feeds.items()}
        answer: Mapping[str, np.ndarray] = engine.run(feeds)
        np.testing.assert_equal(feeds, before)  # engines share their input
        for output, value in expected.items():
            np.testing.assert_allclose(answer[output], value, atol=tolerance)
        feeds = {"image": -feeds["image"]}
        expected = OnnxRuntimeEngine(DEMO, threads=1).run(feeds)


# What graphopt uses of MNN; onnxruntime does the work. Like the real one, it talks on stdout.
FAKE_MNN = {
    "_tools.py": """
import shutil
def mnnconvert(arguments):
    print("Start to Convert Other Model Format To MNN Model...")
    options = dict(zip(arguments[1::2], arguments[2::2]))
    shutil.copy(options["--modelFile"], options["--MNNModel"])
""",
    "MNN/__init__.py": "",
    "MNN/expr.py": """
import numpy as np
NCHW = 1
class Var:
    def __init__(self, value):
        self.value = value
    def write(self, value):
        self.value[...] = value
    def read(self):
        return self.value
def placeholder(shape, order):
    return Var(np.empty(shape, np.float32))
def convert(variable, order):
    return variable
""",
    "MNN/nn.py": """
import onnxruntime
from MNN.expr import Var
def create_runtime_manager(configs):
    return configs[0]
def load_module_from_file(path, inputs, outputs, runtime_manager, shape_mutable):
    assert runtime_manager == {"backend": "CPU", "precision": "high", "numThread": 2}
    print("MNN use high precision")
    session = onnxruntime.InferenceSession(path)
    class Module:
        def forward(self, variables):
            feeds = {name: variable.read() for name, variable in zip(inputs, variables)}
            return [Var(value) for value in session.run(outputs, feeds)]
    return Module()
""",
}


@pytest.fixture
def fake_mnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package MNN, in an environment of its own that GRAPHOPT_MNN names."""
    environment, folder = tmp_path / "environment", tmp_path / "packages"
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    # Beside the fake, everything that is installed here: it needs NumPy and onnxruntime.
    (packages / "all.pth").write_text("\n".join([str(folder), *filter(None, sys.path)]))
    for name, source in FAKE_MNN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    monkeypatch.setenv(competitors.MNN_PYTHON, str(environment / "bin" / "python"))
    return folder


def test_an_engine_of_another_environment_runs_in_a_process_of_its_own(
    fake_mnn: Path, tmp_path: Path
) -> None:
    job, feeds = _job("mnn", tmp_path, threads=2)
    engine = competitors.open_competitor("mnn", job)
    _agrees(engine, feeds)
    assert isinstance(engine, competitors.GuestEngine)
    assert engine.overhead > 0
    place = Path(f"/proc/{engine.pid}")
    assert str(tmp_path / "environment") in (place / "cmdline").read_text()
    del engine
    assert not place.exists()


def test_mnn_at_its_best_is_in_its_low_precision(fake_mnn: Path, tmp_path: Path) -> None:
    (fake_mnn / "MNN" / "nn.py").write_text(FAKE_MNN["MNN/nn.py"].replace('"high"', '"low"'))
    job, feeds = _job("mnn", tmp_path, threads=2)
    engine = competitors.open_competitor("mnn", replace(job, best=True))
    _agrees(engine, feeds)
    assert isinstance(engine, competitors.GuestEngine)
    assert engine.precision == "low"


@pytest.mark.parametrize("call", ["InferenceSession(path)", "run(outputs, feeds)"])
def test_an_engine_that_dies_in_its_process_leaves_its_last_words(
    call: str, fake_mnn: Path, tmp_path: Path
) -> None:
    module = fake_mnn / "MNN" / "nn.py"
    module.write_text(FAKE_MNN["MNN/nn.py"].replace(call, "Mish"))
    job, feeds = _job("mnn", tmp_path, threads=2)
    with pytest.raises(Unsupported, match=r"mnn failed: AttributeError: .* 'Mish'"):
        competitors.open_competitor("mnn", job).run(feeds)


def test_an_environment_without_the_engine_is_a_sentence(fake_mnn: Path, tmp_path: Path) -> None:
    (fake_mnn / "MNN" / "nn.py").unlink()
    job, _ = _job("mnn", tmp_path)
    with pytest.raises(Unsupported, match=r"mnn is not installed \(ImportError") as caught:
        competitors.open_competitor("mnn", job)
    assert "-m venv" in str(caught.value.hint)


def test_without_an_environment_there_is_no_mnn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job, _ = _job("mnn", tmp_path)
    monkeypatch.delenv(competitors.MNN_PYTHON, raising=False)
    with pytest.raises(Unsupported, match="GRAPHOPT_MNN does not name a Python"):
        competitors.open_competitor("mnn", job)


def test_the_whole_report(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(job: competitors.Job) -> Engine:
        raise ModuleNotFoundError("No module named 'swift'")

    table = {
        **competitors.COMPETITORS,
        "swift": competitors.Competitor(absent, "pip install swift"),
    }
    monkeypatch.setattr(competitors, "COMPETITORS", table)
    report = benchmark.bench(
        bundle,
        BenchOptions(
            vs=("onnxruntime", "swift"), threads=1, num_runs=2, warmup_runs=0, per_layer=True
        ),
    )
    data = report.to_plain(exclude_none=True)
    assert set(data["engines"]) == {"graphopt", "onnxruntime"}
    assert set(data["engines"]["graphopt"]) == {"median_ms", "p10_ms", "p90_ms"}
    own, other = (data["engines"][name]["median_ms"] for name in ("graphopt", "onnxruntime"))
    assert data["ratios"] == {"onnxruntime": pytest.approx(own / other)}
    assert data["threads"] == 1
    assert data["model"] == str(bundle)
    assert data["input"] == {"image": list(SIZE)}
    assert data["difference"]["graphopt"] < 3e-6
    assert "pip install swift" in data["unavailable"]["swift"]
    stem, concatenate = data["layers"]
    assert stem == {
        "layer": "stem",
        "kernel": "conv_dense",
        "ms": 0.5,
        "share": 0.25,
        "macs": 1_000_000,
        "gflops": pytest.approx(4.0),
        "of_peak": pytest.approx(0.25),
        "bytes": 3_000_000,
        "gbytes": pytest.approx(6.0),
    }
    assert (concatenate["share"], concatenate["gflops"]) == (0.75, 0)
    assert data["peak"] == {"gflops": 16, "gbytes": 8}
    assert data["bundle_bytes"] == sum(file.stat().st_size for file in bundle.iterdir())
    # The bundle has no kernels, so that its memory cannot be measured; onnxruntime's can.
    assert list(data["memory"]) == ["onnxruntime"]


def test_what_is_printed(bundle: Path) -> None:
    report = benchmark.bench(
        bundle,
        BenchOptions(vs=("onnxruntime",), threads=1, num_runs=1, warmup_runs=0, per_layer=True),
    )
    report = replace(
        report,
        difference={"graphopt": 0.25, "onnxruntime": 0.0},
        unavailable={"swift": "swift is not installed"},
        memory={"graphopt": 123_400_000},
        bundle_bytes=1_250_000,
    )
    console = Console(width=140)
    with console.capture() as capture:
        console.print(report)
    text = capture.get()
    for part in ("2.5e-01", "swift is missing", "image 1x3x64x96", "1 threads"):
        assert part in text
    for part in ("4.0", "25.0%", "25%", "6.0", "peak: 16 GFLOP/s and 8.0 GB/s"):
        assert part in text
    assert "graphopt 123 MB" in text
    assert "bundle: 1.2 MB" in text


@pytest.fixture
def rewritten(bundle: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A bundle of what a network was rewritten to, and that network, elsewhere."""
    original = tmp_path / "elsewhere" / "net.onnx"
    original.parent.mkdir()
    (tmp_path / "demo.onnx").rename(original)
    stamp = {"graphopt.pipeline": "undilate-conv", "graphopt.input_sha256": sha256_of(original)}
    model = tmp_path / "net.opt.onnx"
    graph = load_model(DEMO)
    constant_in(graph.outputs[0].inputs[0].inputs[1]).values *= 1.01
    save_model(graph, model, metadata=stamp)
    source = replace(
        read_bundle(bundle).manifest, model=Model(path=str(model), sha256=sha256_of(model))
    )
    plan = read_bundle(bundle).plan
    files = {"plan.json": plan.to_json().encode(), "weights.bin": b""}
    write_bundle(bundle, source, files)
    return bundle, original


def shown(report: bench_report.BenchReport) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(report)
    return capture.get()


def brief(bundle: Path, original: Path | None = None) -> bench_report.BenchReport:
    return benchmark.bench(
        bundle, BenchOptions(threads=1, num_runs=1, warmup_runs=0, original=original)
    )


def test_others_run_the_network_before_it_was_rewritten(
    rewritten: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle, original = rewritten
    model = tmp_path / "net.opt.onnx"
    report = brief(bundle, original)
    assert report.files == {"graphopt": str(model), "onnxruntime": str(original)}
    assert max(report.difference.values()) < 3e-6  # each from its own network's outputs
    found = re.fullmatch(
        r"others run net.onnx; graphopt runs net.opt.onnx, whose outputs differ from its by (.*) "
        "of their range",
        report.remark,
    )
    assert found
    assert 1e-3 < float(found[1]) < 1e-1
    assert "network" in shown(report)
    assert "net.opt.onnx" in shown(report)


def test_the_network_before_is_found_beside_it(
    rewritten: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle, original = rewritten
    (tmp_path / "net.onnx").write_bytes(b"another")
    shutil.copy(original, tmp_path / "renamed.onnx")
    assert brief(bundle).files["onnxruntime"] == str(tmp_path / "renamed.onnx")
    shutil.copy(original, tmp_path / "net.onnx")
    assert brief(bundle).files["onnxruntime"] == str(tmp_path / "net.onnx")


def test_without_the_network_before_it_is_said_what_ran(rewritten: tuple[Path, Path]) -> None:
    report = brief(rewritten[0])
    assert len(set(report.files.values())) == 1
    assert report.remark.startswith(
        "every engine ran net.opt.onnx, which graphopt optimize rewrote"
    )
    assert "--original A.onnx" in " ".join(shown(report).split())


def test_a_network_as_it_was_exported_needs_no_remark(bundle: Path, tmp_path: Path) -> None:
    report = brief(bundle)
    assert set(report.files.values()) == {str(tmp_path / "demo.onnx")}
    assert not report.remark


def test_an_original_with_other_inputs_is_refused(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    graph = load_model(DEMO)
    graph.inputs[0].name = "picture"
    save_model(graph, other)
    with pytest.raises(UsageError, match="the model has no input 'image'"):
        brief(bundle, other)


def test_a_bundle_has_one_size(bundle: Path) -> None:
    with pytest.raises(InputError, match="one size"):
        benchmark.bench(
            bundle, BenchOptions(input_shape=format_input_shapes({"image": (1, 3, 32, 32)}))
        )


def test_a_network_that_has_changed_is_no_yardstick(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "demo.onnx").write_bytes(DEMO.read_bytes() + b"\0")
    with pytest.raises(InputError, match="is gone or has changed"):
        benchmark.bench(bundle, BenchOptions(threads=1))


def _memory(engine: str, scratch: Path) -> int:
    job, feeds = _job(engine, scratch)
    return peak_memory(engine, job, scratch, feeds)


def test_memory_is_of_a_process_that_does_nothing_else(tmp_path: Path) -> None:
    ballast = np.ones(500_000_000, np.uint8)  # what this process holds must not count
    held = _memory("onnxruntime", tmp_path)
    assert 20e6 < held < 400e6 < ballast.nbytes


def test_memory_of_an_engine_in_a_process_of_its_own_is_that_processs(
    fake_mnn: Path, tmp_path: Path
) -> None:
    ballast = "\nimport numpy\nballast = numpy.ones(250_000_000, numpy.uint8)\n"
    (fake_mnn / "MNN" / "nn.py").write_text(FAKE_MNN["MNN/nn.py"] + ballast)
    job, feeds = _job("mnn", tmp_path, threads=2)
    assert peak_memory("mnn", job, tmp_path, feeds) > 250e6


def test_memory_that_cannot_be_measured_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match=r"memory of graphopt .* is not a bundle"):
        _memory("graphopt", tmp_path)


def test_a_network_is_fed_what_it_is_used_to(tmp_path: Path) -> None:
    shapes = {"image": SIZE}
    graph = load_model(DEMO, shapes)
    spec = detect_pose_spec(graph)
    noise = contest.usual_feeds(tmp_path, graph, shapes)["image"]
    assert abs(noise.mean()) < 0.2
    assert noise.std() < 2
    (tmp_path / "pose.json").write_text(spec.to_json())
    photo: np.ndarray = contest.usual_feeds(tmp_path, graph, shapes)["image"]
    assert photo.shape == SIZE
    assert photo.dtype == np.float32
    black, white = (
        (np.array(value) - spec.preprocess.mean) * spec.preprocess.scale for value in (0, 255)
    )
    assert (photo >= black[:, None, None] - 1e-5).all()
    assert (photo <= white[:, None, None] + 1e-5).all()
    assert photo.std() > 0.1 * abs(white - black).mean()
