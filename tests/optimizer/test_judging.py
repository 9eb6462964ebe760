"""Poses as the judge of what passes do: `--calib`, `--max-shift`, and what the report says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from command_line import Graphopt
from demo_pictures import DEMO, paint
from known import known, values_of
from small_networks import MakeGraph, Normal

from graphopt.analysis.compare import compare
from graphopt.errors import CheckFailed
from graphopt.fitting.calibration import SYNTHETIC_WARNING, Calibration
from graphopt.ir.arrays import Array, Feeds, Shape
from graphopt.ir.edit import constant
from graphopt.ir.onnx_io import load_model, save_model
from graphopt.optimizer.outcome import PipelineResult
from graphopt.optimizer.pass_contract import Change, Context, Numerics, Pass, Skip
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.syntax import parse_pipeline
from graphopt.pose.detect import detect_pose_spec
from graphopt.runtime.differences import QUIET, OutputError
from graphopt.runtime.engine import OnnxRuntimeEngine


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Painted mannequins: parts of the demo's picture at several places, some mirrored."""
    return paint(tmp_path_factory.mktemp("pictures"), 8)


@pytest.fixture(scope="module")
def context(pictures: Path) -> Context:
    graph = load_model(DEMO)
    spec = detect_pose_spec(graph)
    return Context(graph, Calibration.from_photos(pictures, graph, spec, height=192))


@dataclass(frozen=True)
class Damage(Pass[gs.Node]):
    """Add a little noise to every large weight."""

    name = "damage"
    numerics = Numerics.APPROXIMATE
    amount: float = 0.05

    def match(self, graph: gs.Graph) -> Iterator[gs.Node | Skip]:
        yield from [n for n in graph.nodes if n.op == "Conv" and values_of(n.inputs[1]).size > 500]

    def rewrite(self, graph: gs.Graph, site: gs.Node) -> Change | Skip:
        values = values_of(site.inputs[1])
        noise = np.random.default_rng(0).standard_normal(values.shape) * values.std()
        noisy = values + self.amount * noise.astype(np.float32)
        site.inputs[1] = constant(graph, "noisy", noisy)
        return Change(site.outputs[0].name, "noise")


RECONSTRUCT = parse_pipeline("reconstruct{photos=6}")


def test_a_network_agrees_with_itself(context: Context) -> None:
    engine = OnnxRuntimeEngine(DEMO)
    calibration = known(context.calibration)
    feeds = list(calibration.feeds(calibration.held_out))
    change = compare(engine, engine, calibration.spec, feeds)
    assert change.people >= len(feeds)
    assert (change.error, change.lost, change.added, change.mean_shift) == (0, 0, 0, 0)
    assert change.oks == 1


def test_people_that_vanish_are_counted(context: Context) -> None:
    class Blind:
        name = "blind"
        inputs: Mapping[str, Shape] = {}
        outputs: Sequence[str] = ()

        def run(self, feeds: Feeds) -> dict[str, Array]:
            values = engine.run(feeds)
            return {name: np.zeros_like(value) for name, value in values.items()}

    engine = OnnxRuntimeEngine(DEMO)
    calibration = known(context.calibration)
    change = compare(engine, Blind(), calibration.spec, calibration.feeds(calibration.held_out))
    assert change.people > 0
    assert (change.lost, change.added, change.oks) == (change.people, 0, 0)
    assert change.error > 0.99


def test_lossy_passes_are_judged_by_poses(context: Context) -> None:
    passes = [*parse_pipeline("canonicalize"), Damage(), *RECONSTRUCT]
    exact, damaged, repaired = run_pipeline(known(context.original), passes, context=context).steps
    assert exact.poses is None
    assert known(damaged.poses).error > 1.5 * known(repaired.poses).error > 0
    assert known(damaged.poses).mean_shift > known(repaired.poses).mean_shift


def test_a_budget_takes_back_what_moves_too_far(context: Context) -> None:
    result = run_pipeline(
        known(context.original), [Damage()], context=context, on_fail="revert", max_shift=1e-4
    )
    (step,) = result.steps
    assert step.reverted
    assert "allowed: 0.0001 pixels" in known(step.failure)
    assert result.after == result.before
    with pytest.raises(CheckFailed, match="key points move"):
        run_pipeline(known(context.original), [Damage()], context=context, max_shift=1e-4)
    (warned,) = run_pipeline(
        known(context.original), [Damage()], context=context, on_fail="warn", max_shift=1e-4
    ).steps
    assert warned.failure
    assert not warned.reverted


def test_a_budget_keeps_what_it_allows(context: Context) -> None:
    """With half the budget that all changes need, some stay, and their sum is within it."""
    whole = run_pipeline(known(context.original), [Damage()], context=context).steps[0]
    budget = known(whole.poses).mean_shift / 2
    (step,) = run_pipeline(
        known(context.original), [Damage()], context=context, on_fail="bisect", max_shift=budget
    ).steps
    assert not step.failure
    assert 0 < len(step.changes) < len(whole.changes)
    assert known(step.poses).mean_shift <= budget
    assert len(step.changes) + len(step.skips) == len(whole.changes)


def test_a_pass_is_judged_after_its_repair(context: Context) -> None:
    """What is repaired within the budget stays; what is not goes back with its repair."""
    damaged = run_pipeline(known(context.original), [Damage()], context=context).steps[0].poses
    assert damaged
    passes = [Damage(), *RECONSTRUCT, *parse_pipeline("canonicalize")]

    def run(budget: float) -> PipelineResult:
        return run_pipeline(
            known(context.original), passes, context=context, on_fail="revert", max_shift=budget
        )

    repaired = run(damaged.mean_shift * 0.9)
    assert not any(step.reverted for step in repaired.steps)
    hopeless = run(1e-4)
    assert [step.reverted for step in hopeless.steps] == [True, True, False]
    assert "could not make up for it" in known(hopeless.steps[0].failure)
    weights = [values_of(n.inputs[1]) for n in hopeless.graph.nodes if n.op == "Conv"]
    before = [values_of(n.inputs[1]) for n in known(context.original).nodes if n.op == "Conv"]
    assert all(np.array_equal(a, b) for a, b in zip(weights, before, strict=True))


def test_optimize_with_photos(graphopt: Graphopt, pictures: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    code, text, _ = graphopt(
        *("optimize", DEMO, "-o", tmp_path / "out.onnx", "--report", report),
        *("--passes", "replace-swish, reconstruct{photos=6}", "--calib", pictures),
    )
    assert code == 0
    assert "shift" in text
    assert SYNTHETIC_WARNING not in text
    plain, repaired = json.loads(report.read_text())["passes"]
    assert repaired["poses"]["error"] < plain["poses"]["error"]


def test_optimize_without_photos_says_what_it_costs(graphopt: Graphopt, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    code, _, _ = graphopt(
        *("optimize", DEMO, "-o", tmp_path / "out.onnx", "--report", report, "--verify", "off"),
        *("--passes", "replace-swish, reconstruct{photos=5}"),
    )
    assert code == 0
    assert SYNTHETIC_WARNING in json.loads(report.read_text())["remarks"]


def test_a_budget_needs_photos(graphopt: Graphopt, tmp_path: Path) -> None:
    code, _, err = graphopt("optimize", DEMO, "-o", tmp_path / "out.onnx", "--max-shift", 1)
    assert code == 2
    assert "--calib" in err


def test_compare_on_the_command_line(graphopt: Graphopt, pictures: Path, tmp_path: Path) -> None:
    other = tmp_path / "hard.onnx"
    assert graphopt("optimize", DEMO, "-o", other, "--passes", "replace-swish")[0] == 0
    args = ("--images", pictures, "--limit", 3, "--height", 192)
    code, text, _ = graphopt("compare", DEMO, other, *args, "--json")
    assert code == 0
    told = json.loads(text)
    assert told["images"] == 3
    assert told["people"] > 0
    assert told["error"] > 0.01
    code, text, _ = graphopt("compare", DEMO, DEMO, *args)
    assert code == 0
    assert "3 photos: key points move by 0.00 pixels in the mean, OKS 1.000" in text
    code, _, err = graphopt("compare", DEMO, other, "--images", tmp_path)
    assert (code, "no photo" in err) == (1, True)


def test_explain_says_what_matches_and_what_does_not(
    graphopt: Graphopt, network: MakeGraph, normal: Normal, tmp_path: Path
) -> None:
    graph = network(
        "float[1,3,8,8] x",
        "float[1,4,8,8] y",
        """c = Conv<pads=[1,1,1,1]>(x, w) s = Sigmoid(c) a = Mul(c, s)
           q = GlobalAveragePool(a) h = Sigmoid(q) y = Mul(a, h)""",
        w=normal(4, 3, 3, 3),
    )
    path = tmp_path / "swish.onnx"
    save_model(graph, path)

    def told(*args: str) -> Any:
        code, text, _ = graphopt("explain", path, "--pass", "replace-swish", "--json", *args)
        assert code == 0
        return json.loads(text)

    everything = told()
    assert [change["node"] for change in everything["changes"]] == ["a"]
    assert [skip["node"] for skip in everything["skips"]] == ["y"]
    gate = told("--node", "y")
    assert not gate["changes"]
    assert "gates another tensor" in gate["skips"][0]["reason"]
    assert "does not look at c (Conv)" in told("--node", "c")["remark"]
    assert not told("--after", "replace-swish")["changes"]
    code, text, _ = graphopt("explain", path, "--pass", "replace-swish")
    assert (code, "matches" in text, "left" in text) == (0, True, True)
    for args, message, expected in (
        (("--pass", "replace-swish", "--node", "cc"), "no node 'cc'", 2),
        (("--pass", "canonicalize, replace-swish"), "not one pass", 2),
        (("--pass", "reconstruct"), "no images", 1),
    ):
        code, _, err = graphopt("explain", path, *args)
        assert (code, message in err) == (expected, True), err


def test_a_pass_that_is_fitted_is_explained_on_photos(
    graphopt: Graphopt, pose_files: tuple[Path, Path]
) -> None:
    model, photos = pose_files
    given = ("explain", model, "--pass", "quantize", "--json")
    code, _, err = graphopt(*given)
    assert code == 1
    assert "--calib" in err
    code, text, err = graphopt(*given, "--calib", photos, "--node", "heat")
    assert code == 0, err
    told = json.loads(text)
    said = [change["summary"] for change in told["changes"]]
    said += [skip["reason"] for skip in told["skips"]]
    assert len(said) == 1
    assert "eight bits" in said[0]


def test_every_channel_counts_in_the_error_of_outputs() -> None:
    """A heat map is as good as its worst part, however large its background is."""
    rng = np.random.default_rng(0)
    background = 100 * rng.standard_normal((1, 1, 8, 8))
    part = 0.1 * rng.standard_normal((1, 1, 8, 8))
    maps = np.concatenate([part, background], axis=1).astype(np.float32)
    lost = maps.copy()
    lost[:, 0] = maps[:, 0].mean()
    error = OutputError()
    error.add({"heat": lost}, {"heat": maps})
    # The part is gone: its error is its deviation, or what counts as one beside the background's.
    quiet = part.var() / (QUIET * (background.var() + part.var()) / 2)
    assert error.value == pytest.approx((quiet / 2) ** 0.5, rel=1e-3)
    alike = np.concatenate([part, part], axis=1)
    halved, error = alike.copy(), OutputError()
    halved[:, 0] = part.mean()
    error.add({"heat": halved}, {"heat": alike})
    error.add({"heat": halved[0]}, {"heat": alike[0]})
    assert error.value == pytest.approx(0.5**0.5, rel=1e-6)
    flat = OutputError()
    flat.add({"scores": np.zeros((1, 4))}, {"scores": np.array([[1.0, -1.0, 1.0, -1.0]])})
    assert flat.value == pytest.approx(1.0)
