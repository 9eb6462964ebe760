"""What the scripts in tests/benchmarks/ say about measurements; they measure by hand only."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import pytest

from graphopt.bench.bench_report import BenchReport, Timing
from graphopt.pose.decode import decode
from graphopt.pose.detect import detect_pose_spec
from graphopt.pose.estimate import Estimator
from graphopt.pose.images import read_photo
from graphopt.runtime.engine import OnnxRuntimeEngine

ROOT = Path(__file__).resolve().parents[2]

LoadScript: TypeAlias = Callable[[str], ModuleType]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoadScript]:
    """script("engines") imports a script as if it had been run where it is."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks"))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in ("engines", "pruning_curve", "photo_to_poses", "frontier"):
        sys.modules.pop(name, None)


def test_a_rivals_cell_is_its_best_right_row(script: LoadScript) -> None:
    engines = script("engines")
    names = ("graphopt", "swift", "swift int8", "kite", "kite int8")
    times = (10.0, 20.0, 8.0, 40.0, 5.0)
    report = BenchReport(
        engines={n: Timing(ms, ms, ms) for n, ms in zip(names, times, strict=True)},
        ratios={n: 10 / ms for n, ms in zip(names[1:], times[1:], strict=True)},
        ratio_p10_p90={n: (10 / ms, 10 / ms) for n, ms in zip(names[1:], times[1:], strict=True)},
        difference=dict.fromkeys(names, 0.0),
        files=dict.fromkeys(names, "f"),
        precision={"swift int8": "int8", "kite int8": "int8"},
        oks={"swift int8": 0.99, "kite int8": 0.5},
        unavailable={},
        threads=1,
        rounds=1,
        model="m",
        input={},
        compiled_here=False,
        memory={},
        bundle_bytes=1,
    )
    cells = list(engines.row(report, ("swift", "kite", "heron")))
    assert cells[2:6] == ["1.25 (1.25 … 1.25) int8", "0.25 (0.25 … 0.25)", "-", "1.25"]


def points(curve: ModuleType) -> dict[str, Any]:
    def point(macs: int, ap: float, speedup: float, packed: float) -> Any:
        return curve.Point(
            macs=macs, params=macs // 4, ap=ap, speedup=(speedup, 1.0, 2.0), packed=packed
        )

    return {
        "dense": point(16_000_000_000, 0.4, 1.0, 0.5),
        "compression 2": point(8_000_000_000, 0.3, 1.7, 0.28),
        "speedup 1.5": point(10_000_000_000, 0.36, 1.4, 0.3),
    }


def test_a_row_compares_with_the_dense_network(script: LoadScript) -> None:
    curve = script("pruning_curve")
    found = points(curve)
    cells = list(curve.row("compression 2", found["compression 2"], found["dense"]))
    assert len(cells) == len(curve.HEADER)
    assert cells == [
        *("2x fewer MACs", "8.00 G (2.00x fewer)", "2.00 G", "0.300", "75%"),
        *("1.70 (1.00 … 2.00)", "28%"),
    ]


def test_every_network_is_a_dot(script: LoadScript) -> None:
    curve = script("pruning_curve")
    picture = curve.drawing(points(curve))
    assert picture.count("<circle") == 3
    assert picture.count("<polyline") == 2
    for label in ("dense", "2x", "1.5x"):
        assert f">{label}</text>" in picture


def test_results_of_other_settings_are_refused(script: LoadScript, tmp_path: Path) -> None:
    curve = script("pruning_curve")
    settings = curve.Settings(
        network="0",
        calib="photos",
        calib_photos=200,
        images="val",
        limit=None,
        device="d",
        preset="exact",
        distill_steps=0,
        size="368x656",
        threads=2,
    )
    path = tmp_path / "curve.json"
    assert curve.Curve.go_on(path, settings).points == {}
    path.write_text(curve.Curve(settings=settings, points=points(curve)).to_json())
    assert curve.Curve.go_on(path, settings).points == points(curve)
    with pytest.raises(SystemExit, match="other settings"):
        curve.Curve.go_on(path, replace(settings, threads=1))


def test_a_contestant_finds_who_the_estimator_finds(script: LoadScript) -> None:
    race = script("photo_to_poses")
    engine = OnnxRuntimeEngine(ROOT / "examples" / "demo.onnx", threads=1)
    spec = detect_pose_spec(ROOT / "examples" / "demo.onnx")
    photo = read_photo(ROOT / "examples" / "demo.png")
    contestant = race.Contestant(engine, spec, network="demo")
    found = contestant(photo)
    expected = Estimator(engine, spec)(photo)
    assert len(found.people) == len(expected.people) > 0
    for one, other in zip(found.people, expected.people, strict=True):
        np.testing.assert_array_equal(one.keypoints, other.keypoints)
    assert contestant.run({"photo": np.asarray(photo)}) == {}
    assert len(contestant.stages) == 2 * 3


def test_a_contestants_row(script: LoadScript) -> None:
    race = script("photo_to_poses")
    engine = SimpleNamespace(name="other", inputs={}, outputs=[])
    # Two turns of two runs each; the first of a turn warms up.
    stages = [9.0, 9.0, 9.0, 0.001, 0.02, 0.003] * 2
    spec = detect_pose_spec(ROOT / "examples" / "demo.onnx")
    contestant = race.Contestant(engine, spec, network="net", by=decode, stages=stages)
    cells = list(race.row(contestant, np.array([24.0, 24.0]), np.array([12.0, 12.0]), 0.4))
    assert len(cells) == len(race.HEADER)
    assert cells[:3] == ["net", "other", race.NUMPY]
    assert cells[4:] == ["1.0 + 20.0 + 3.0", "2.00x (2.00 … 2.00)", "0.400"]


def test_a_frontier_is_drawn_of_all_series(script: LoadScript) -> None:
    frontier = script("frontier")
    exact, eight = frontier.SERIES["exact"], frontier.SERIES["exact-quantize"]
    results = [
        frontier.Result(exact, "exact 368 float32", 100.0, 0.46),
        frontier.Result(exact, "exact 304 float32", 70.0, 0.42),
        frontier.Result(eight, "exact-quantize 368 int8", 30.0, 0.459),
        frontier.Result("rival, int8", "rival 368 int8, NumPy", 60.0, 0.45),
    ]
    assert [one.ms for one in frontier.best(results)] == [100.0, 30.0]
    rows = frontier.table(results).splitlines()[2:]
    assert rows[-1].endswith("| 30.0 | 3.33 | 0.4590 | yes |")
    assert rows[1].endswith("| 70.0 | 1.43 | 0.4200 |  |")
    picture = frontier.drawing(results)
    for label in (exact, eight, "rival, int8", frontier.TOGETHER):
        assert f">{label}</text>" in picture


def test_bundles_of_a_search_are_told_by_their_names(
    script: LoadScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontier = script("frontier")
    for name in ("exact-368-float32", "exact-quantize-304-int8", "exact-cut-368-int8", "picked"):
        (tmp_path / f"{name}.graphopt").mkdir()
    monkeypatch.setattr(frontier, "open_engine", lambda path, threads: (path, threads))
    monkeypatch.setattr(frontier, "each", lambda engine, spec, network, by: [engine])
    found = {entry.name: entry.series for entry in frontier.bundles(tmp_path, 2)}
    assert found == {
        "exact 368 float32": "graphopt, smaller photos alone",
        "exact-quantize 304 int8": "graphopt, int8",
        "exact-cut 368 int8": "graphopt, pruned or shortened, int8",
    }
