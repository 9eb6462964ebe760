"""What a wish of `optimize` chooses, which options contradict it, and what is said of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from command_line import Graphopt
from demo_pictures import DEMO, paint
from rich.cells import cell_len

from graphopt.errors import CheckFailed, UsageError
from graphopt.optimizer.options import OptimizeOptions
from graphopt.optimizer.wishes import check_wishes, wishes
from graphopt.search import choose as chosen
from graphopt.search.choose import as_search, choose, notes, verdict
from graphopt.search.options import SearchOptions

PHOTOS = Path("photos")
DEVICE = "epyc-znver4-1t"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo network in a folder of its own, with twelve pictures."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "demo.onnx").write_bytes(DEMO.read_bytes())
    (folder / "photos").mkdir()
    paint(folder / "photos", 12)
    return folder


@pytest.fixture(params=[("height",)], autouse=True)
def few_levers(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Searches of seconds, by these levers only."""

    def small(options: OptimizeOptions) -> SearchOptions:
        return replace(as_search(options), photos=6, levers=request.param)

    monkeypatch.setattr(chosen, "as_search", small)


def _options(demo: Path, **more: object) -> OptimizeOptions:
    given = {"calib": demo / "photos", "calib_photos": 6, "device": DEVICE}
    return OptimizeOptions(**{**given, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (OptimizeOptions(), {}),
        (OptimizeOptions(speedup=2), {"speedup": 2.0}),
        (
            OptimizeOptions(preset="mobile", latency_ms=9, max_ap_drop=0.1),
            {"latency-ms": 9.0, "max-ap-drop": 0.1},
        ),
        (OptimizeOptions(preset="exact", speedup=2), {}),
        (OptimizeOptions(passes="canonicalize", speedup=2), {}),
        (OptimizeOptions(compression=1.8, speedup=1.5), {}),
        (OptimizeOptions(int8=True, max_ap_drop=0.1), {}),
        (OptimizeOptions(int8=True, speedup=2), {"speedup": 2.0}),
    ],
)
def test_wishes(options: OptimizeOptions, expected: dict[str, float]) -> None:
    assert wishes(options) == expected


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (OptimizeOptions(speedup=2), "fitted to photos and judged on others"),
        (OptimizeOptions(speedup=2, calib=PHOTOS, int8=True), "--int8 contradict .* eight bits"),
        (OptimizeOptions(speedup=2, calib=PHOTOS, distill=True), "--distill contradict"),
        (OptimizeOptions(speedup=2, calib=PHOTOS, verify="off"), "--verify contradict"),
        (OptimizeOptions(speedup=2, calib=PHOTOS, max_shift=1), "--max-shift contradict"),
        (OptimizeOptions(speedup=2, calib=PHOTOS, skip_passes=("a",)), "--skip-passes contra"),
        (OptimizeOptions(speedup=2, calib=PHOTOS, input_shape=("1,3,8,8",)), "--input-shape con"),
        (OptimizeOptions(speedup=2, calib=PHOTOS, images=PHOTOS), "go together"),
        (OptimizeOptions(budget_minutes=2), "--budget-minutes goes with --speedup"),
        (OptimizeOptions(preset="exact", speedup=2, images=PHOTOS), "--images goes with"),
    ],
)
def test_contradictions(options: OptimizeOptions, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        check_wishes(options)


def test_a_search_for_a_wish() -> None:
    options = OptimizeOptions(calib=PHOTOS, speedup=2, max_ap_drop=0.02)
    searched = as_search(options)
    assert searched.pick == "speedup=2,max-ap-drop=0.02"
    assert searched.device == "local"
    assert searched.budget_minutes == chosen.MINUTES
    assert searched.calib_photos == SearchOptions.calib_photos
    assert as_search(replace(options, calib_photos=60)).calib_photos == 60
    assert as_search(replace(options, input_shape=("dynamic",))) == searched


def test_what_is_chosen(
    graphopt: Graphopt, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = ("optimize", demo / "demo.onnx", "--calib", demo / "photos", "--calib-photos", 6)
    done = graphopt(*words, "--device", DEVICE, "--speedup", 1.4, "-o", "fast.onnx")
    assert done.code == 0, done.stderr
    assert "searching for 30 minutes at most (--budget-minutes), on epyc" in done.stderr
    lines = done.stdout.splitlines()
    assert all(cell_len(line) <= 80 for line in lines)
    assert lines[0].startswith("fast.onnx: 1.")
    assert "taken: height (" in done.stdout
    assert "next: graphopt compile fast.onnx" in done.stdout
    assert (demo / "demo.search" / "search.json").exists()

    again = graphopt(*words, "--device", DEVICE, "--speedup", 1.4, "-o", "any.onnx", "--json", "-")
    report = json.loads(again.stdout)
    point = report["picked"]["point"]
    assert report["reference"]["ms"] / point["ms"] >= 1.4
    assert f"({report['reference']['ms']:.1f} → {point['ms']:.1f} ms" in " ".join(lines)
    (entry,) = onnx.load(str(tmp_path / "fast.onnx"), load_external_data=False).graph.input
    assert entry.type.tensor_type.shape.dim[2].dim_value == point["height"]
    beaten = [one for one in report["plain"] if one["ms"] <= point["ms"]]
    assert all(one["self_ap"] <= point["self_ap"] for one in beaten)


def test_a_preset_mobile_takes_any_size(demo: Path, tmp_path: Path) -> None:
    options = _options(demo, preset="mobile", latency_ms=1000, input_shape=("dynamic",))
    report = choose(demo / "demo.onnx", tmp_path / "x.onnx", options, report=tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text())["picked"]["wish"] == "latency-ms=1000"
    assert report.picked is not None
    assert report.picked.levers == {}
    assert "the original itself is fast enough" in list(verdict(report))
    assert any("real AP: --annotations" in line for line in notes(report))
    (entry,) = onnx.load(str(tmp_path / "x.onnx"), load_external_data=False).graph.input
    assert entry.type.tensor_type.shape.dim[2].dim_param


def test_a_wish_that_nothing_fulfils(graphopt: Graphopt, demo: Path, tmp_path: Path) -> None:
    words = ("optimize", demo / "demo.onnx", "--calib", demo / "photos", "--calib-photos", 6)
    done = graphopt(*words, "--device", DEVICE, "--speedup", 100, "-o", "fast.onnx")
    assert done.code == 3
    assert "none takes at most" in done.stderr
    assert "the nearest, " in done.stderr
    assert not (tmp_path / "fast.onnx").exists()


def _clock(now: list[float]) -> Callable[[], float]:
    return lambda: now[0]


@pytest.mark.parametrize("few_levers", [("height", "stages")], indirect=True)
def test_a_budget_that_ends(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "demo.onnx").write_bytes(DEMO.read_bytes())
    now = [0.0]

    def tell(what: str) -> None:
        if what.startswith("networks: 1 of"):
            now[0] = 36.0  # of sixty: no network is begun, and that one goes on later

    options = _options(demo, speedup=1.2, max_ap_drop=0.0001, budget_minutes=1)
    with pytest.raises(CheckFailed, match="loses at most") as end:
        choose(tmp_path / "demo.onnx", None, options, progress=tell, clock=_clock(now))
    assert end.value.hint is not None
    assert "not tried: 1 minutes did not suffice; the same command goes on" in end.value.hint
    networks = json.loads((tmp_path / "demo.search" / "search.json").read_text())["entries"]
    assert "network: exact" in networks
    assert not any("truncate" in name for name in networks)


def test_another_search_in_the_folder_is_left_alone(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "demo.onnx").write_bytes(DEMO.read_bytes())
    folder = tmp_path / "demo.search"
    folder.mkdir()
    (folder / "search.json").write_text('{"owner": "another", "entries": {}}')
    options = _options(demo, latency_ms=1000, budget_minutes=1)
    now = iter(float(60 * minute) for minute in range(1000))
    choose(tmp_path / "demo.onnx", None, options, clock=lambda: next(now))
    assert (tmp_path / "demo.opt.onnx").exists()
    assert '"another"' in (folder / "search.json").read_text()
    assert len([*tmp_path.glob("demo.search-*")]) == 1
