"""Every lever on the demo network: predicted for a device, timed here, stopped and gone on with."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from command_line import Graphopt
from compile_once import each_job_once
from demo_pictures import DEMO, paint

from graphopt.errors import GraphoptError, InputError, UsageError
from graphopt.pose.estimate import Estimator
from graphopt.pose.open import open_engine
from graphopt.search.candidates import Candidate
from graphopt.search.options import SearchOptions
from graphopt.search.report import SearchReport, drawing
from graphopt.search.search import search
from graphopt.search.workshop import Workshop


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts of the demo's picture, with people in all of them."""
    return paint(tmp_path_factory.mktemp("pictures"), 12)


def _options(pictures: Path, **more: object) -> SearchOptions:
    given = {
        "calib": pictures,
        "calib_photos": 6,
        "photos": 6,
        "device": "epyc-znver4-1t",
        "levers": ("height", "stages"),
        "heights": (192, 128),
    }
    return SearchOptions(**{**given, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchReport, Path]:
    folder = tmp_path_factory.mktemp("search")
    return search(DEMO, folder, _options(pictures)), folder


def test_a_frontier_of_a_device(found: tuple[SearchReport, Path]) -> None:
    report, _ = found
    whole = report.reference
    assert (whole.height, whole.precision, whole.pipeline) == (192, "float32", "exact")
    assert whole.self_ap == 1.0, "the original's poses are its own"
    assert whole.ap is None
    times = [point.ms for point in report.frontier]
    qualities = [point.quality for point in report.frontier]
    assert times == sorted(times, reverse=True)
    assert qualities == sorted(qualities, reverse=True)
    smaller = next(point for point in report.plain if point.height == 128)
    assert smaller.ms < whole.ms
    assert 0 < smaller.self_ap < 1
    tried = {(p.height, p.pipeline) for p in report.frontier}
    tried |= {(p.height, p.pipeline) for p in report.rejected}
    assert (128, "exact, truncate-refinement{stages=1}, reconstruct") in tried
    assert all(one.why for one in report.rejected)


def test_a_drawing(found: tuple[SearchReport, Path]) -> None:
    report, _ = found
    picture = drawing(report)
    assert "smaller photos, float32" in picture
    assert "self-AP" in picture


def test_an_interrupted_search_goes_on(
    found: tuple[SearchReport, Path], pictures: Path, tmp_path: Path
) -> None:
    report, _ = found
    told: list[str] = []
    for stop in ("original's poses, photo 3", "networks: 1 of", "judging: 3 of"):

        def tell(what: str, stop: str = stop) -> None:
            told.append(what)
            if stop in what:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            search(DEMO, tmp_path, _options(pictures), progress=tell)
    assert search(DEMO, tmp_path, _options(pictures)).to_json() == report.to_json()
    made = [what for what in told if "reconstruct: " in what]
    assert len(made) == len(set(made)), "a network is made once"


def test_a_finished_search_does_nothing_again(
    found: tuple[SearchReport, Path], pictures: Path
) -> None:
    report, folder = found
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert search(DEMO, folder, _options(pictures)).to_json() == report.to_json()
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_budget(pictures: Path, tmp_path: Path) -> None:
    minutes = iter(range(1000))
    report = search(
        DEMO,
        tmp_path,
        _options(pictures, budget_minutes=1),
        clock=lambda: 60.0 * next(minutes),
    )
    assert {point.pipeline for point in report.frontier} == {"exact"}, "the plain ones always are"
    whys = {one.why for one in report.rejected if "stages" in one.pipeline}
    assert whys == {"not tried: 1 minutes did not suffice"}


def test_smaller_photos_are_looked_at_before_anything_is_fitted(
    pictures: Path, tmp_path: Path
) -> None:
    told: list[str] = []

    def clock() -> float:
        """Time is over as soon as something is fitted."""
        return 600.0 if any("reconstruct" in what for what in told) else 0.0

    options = _options(pictures, budget_minutes=10)
    report = search(DEMO, tmp_path, options, progress=told.append, clock=clock)
    assert [(point.height, point.pipeline) for point in report.frontier] == [
        (192, "exact"),
        (128, "exact"),
    ]
    whys = {one.why for one in report.rejected}
    assert whys == {"not tried: 10 minutes did not suffice"}


def test_annotations(found: tuple[SearchReport, Path], pictures: Path, tmp_path: Path) -> None:
    _, folder = found
    own = json.loads((folder / "search.json").read_text())["entries"]["original"]
    people = tmp_path / "people.json"
    people.write_text(json.dumps(own))
    options = _options(pictures, annotations=people, images=pictures, levers=("height",))
    report = search(DEMO, tmp_path / "search", options)
    assert report.reference.ap == 1.0, "these annotations are the original's own poses"
    assert all(point.ap == point.self_ap for point in report.frontier)


def test_another_searchs_folder(
    found: tuple[SearchReport, Path], pictures: Path, tmp_path: Path
) -> None:
    _, folder = found
    with pytest.raises(InputError, match="another network, other photos or other options"):
        search(DEMO, folder, _options(pictures, calib_photos=5))
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        search(DEMO, tmp_path, _options(pictures))


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"levers": ("hight",)}, "no lever 'hight'"),
        ({"heights": (100,)}, "100 is none"),
        ({"heights": (-8,)}, "-8 is none"),
        ({"pick": "speed=2"}, "cannot be read"),
        ({"pick": "speedup=fast"}, "cannot be read"),
        ({"images": Path()}, "go together"),
        ({"device": "phone"}, "no device 'phone'"),
    ],
)
def test_refusals(pictures: Path, tmp_path: Path, more: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        search(DEMO, tmp_path, _options(pictures, **more))
    assert not any(tmp_path.iterdir())


def test_too_few_photos(pictures: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for index in range(7):
        (few / f"{index}.png").write_bytes((pictures / f"{index}.png").read_bytes())
    with pytest.raises(InputError, match="holds 7 photos"):
        search(DEMO, tmp_path / "search", _options(few))


def test_wishes_that_none_fulfils(found: tuple[SearchReport, Path], pictures: Path) -> None:
    _, folder = found
    with pytest.raises(GraphoptError, match=r"none takes at most"):
        search(DEMO, folder, _options(pictures, pick="speedup=1000"))


@pytest.fixture
def without_compiling(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], bool]], None]:
    """Bundles that are but names, of which only some can be opened; those are the networks."""

    def only(runs: Callable[[Path], bool]) -> None:
        def opened(bundle: Path, workshop: Workshop) -> Estimator:
            if not runs(bundle):
                raise InputError(f"{bundle.name} is damaged")
            height = int(bundle.name.split("-")[-2])
            return workshop.estimator(Candidate(height, "float32"), DEMO)

        def name(workshop: Workshop, one: Candidate, _: object) -> Path:
            return workshop.folder / f"exact-{one.height}-{one.precision}.graphopt"

        def times(bundles: Mapping[Candidate, Path], *_: object) -> dict[Candidate, float]:
            return {one: float(one.height) for one in bundles}

        monkeypatch.setattr(Workshop, "bundle", name)
        monkeypatch.setattr("graphopt.search.survey.opened", opened)
        monkeypatch.setattr("graphopt.search.race.measured", times)

    return only


def test_a_bundle_that_does_not_run_is_left_out(
    without_compiling: Callable[[Callable[[Path], bool]], None], pictures: Path, tmp_path: Path
) -> None:
    without_compiling(lambda bundle: "-128-" not in bundle.name)
    report = search(DEMO, tmp_path, _options(pictures, device="local", levers=("height",)))
    assert {point.height for point in report.frontier} == {192}
    assert "exact-128-float32.graphopt is damaged" in {one.why for one in report.rejected}


def test_an_original_that_does_not_run(
    without_compiling: Callable[[Callable[[Path], bool]], None], pictures: Path, tmp_path: Path
) -> None:
    without_compiling(lambda _: False)
    with pytest.raises(GraphoptError, match=r"the original's bundle does not run: .* is damaged"):
        search(DEMO, tmp_path, _options(pictures, device="local", levers=("height",)))


def test_timed_here(
    graphopt: Graphopt, pictures: Path, tmp_path: Path, compiler_jobs: Path
) -> None:
    words = ("--calib-photos", 6, "--photos", 6, "--levers", "height", "--heights", "128")
    with each_job_once(compiler_jobs):
        done = graphopt(
            *("search", DEMO, "--calib", pictures, *words, "-o", "found", "--pick", "speedup=1"),
            *("--plot", "found.svg", "--json", "found.json"),
        )
    assert done.code == 0, done.stderr
    assert "Written: found/picked.onnx and found/picked.graphopt" in done.stdout
    report = json.loads((tmp_path / "found.json").read_text())
    assert all(point["ms"] > 0 for point in report["frontier"])
    assert report["picked"]["point"] in report["frontier"]
    engine, _ = open_engine(tmp_path / "found" / "picked.graphopt")
    ((_, shape),) = engine.inputs.items()
    assert shape[2] == report["picked"]["point"]["height"]
    for command in report["picked"]["commands"]:
        assert command.startswith("graphopt ")
    assert (tmp_path / "found.svg").read_text().startswith("<svg")


def test_the_command_makes_the_network_again(
    graphopt: Graphopt, pictures: Path, tmp_path: Path
) -> None:
    options = _options(pictures, levers=("stages",), heights=(192,), pick="latency-ms=1000")
    report = search(DEMO, tmp_path / "search", options)
    assert report.picked is not None
    (command,) = report.picked.commands
    words = shlex.split(command.replace(str(tmp_path / "search" / "picked.onnx"), "again.onnx"))
    done = graphopt(*words[1:])
    assert done.code == 0, done.stderr
    assert (tmp_path / "again.onnx").read_bytes() == Path(report.picked.network).read_bytes()
