"""Which layers are pruned, and by how much, to reach a target with the least loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from known import constant_in, values_of
from small_networks import MakeGraph, Normal
from typer.testing import CliRunner

from graphopt.analysis.latency.device import load_device
from graphopt.analysis.latency.predict import network_ms
from graphopt.cli import app
from graphopt.errors import InputError
from graphopt.fitting.calibration import Calibration
from graphopt.optimizer.pass_contract import Change, Context, Numerics, Pass, Skip, option
from graphopt.optimizer.prune_to_target import (
    PRUNING,
    Goal,
    allocate,
    interpolated,
    pruned_ms,
)
from graphopt.optimizer.prune_to_target_pass import PruneToTarget
from graphopt.optimizer.registry import find_passes
from graphopt.optimizer.sensitivity_file import LayerSensitivity, Loss, Sensitivity
from graphopt.sparsity.plan import read_plan

RATIOS = (0.5, 0.75, 0.9)
ADRENO = load_device("adreno-640")


@pytest.fixture
def graph(network: MakeGraph, normal: Normal) -> gs.Graph:
    """Three 1x1 layers and a 3x3 for Winograd's algorithm, 8 of 9 MACs in that."""
    body = "a = Conv(x, w0) b = Conv(a, w1) c = Conv(b, w2) y = Conv<pads=[1,1,1,1]>(c, w3)"
    weights = {f"w{i}": normal(64, 64, k, k) for i, k in enumerate((1, 1, 1, 3))}
    return network("float[1,64,64,64] x", "float[1,64,64,64] y", body, **weights)


def measured(errors: Mapping[str, tuple[float, ...]]) -> Sensitivity:
    """Sensitivities by layer: an error for each ratio; a layer's OKS falls by a tenth of it."""
    macs = {"y": 9 * 64 * 64 * 64 * 64}
    layers = [
        LayerSensitivity(
            name=name,
            function_block="backbone",
            params=1,
            macs=macs.get(name, 64 * 64 * 64 * 64),
            losses=tuple(
                Loss(ratio=r, error=e, shift=0, oks=1 - e / 10)
                for r, e in zip(RATIOS, row, strict=True)
            ),
        )
        for name, row in errors.items()
    ]
    return Sensitivity(block="8x4", images=1, people=1, layers=tuple(layers), function_blocks=())


ERRORS = {
    "a": (0.10, 0.30, 0.31),
    "b": (0.11, 0.12, 0.50),
    "c": (0.01, 0.02, 0.90),
    "y": (0.20, 0.60, 0.70),
}


def _brute_force(macs: list[int], needed: float) -> float:
    """The least sum of squared errors over all choices that save enough."""
    options = [[(0.0, 0.0), *zip(RATIOS, row, strict=True)] for row in ERRORS.values()]
    return min(
        sum(error**2 for _, error in choice)
        for choice in product(*options)
        if sum(n * ratio for n, (ratio, _) in zip(macs, choice, strict=True)) >= needed
    )


@pytest.mark.parametrize("factor", [1.05, 1.3, 1.7, 2.5, 4.0])
def test_least_loss(graph: gs.Graph, factor: float) -> None:
    """No other choice that reaches the target loses less."""
    macs = [64**4] * 3 + [9 * 64**4]
    found = allocate(graph, measured(ERRORS), {Goal.COMPRESSION: factor})
    before, after = found.macs
    assert before == sum(macs)
    assert after <= before / factor + 1
    expected = _brute_force(macs, before - before / factor)
    assert found.error**2 == pytest.approx(expected, rel=1e-6)


def test_only_what_pays(graph: gs.Graph) -> None:
    """On this device a sparse 3x3 must beat Winograd's algorithm: 0.9 does, 0.75 does not."""
    cheap = {**ERRORS, "y": (1e-3, 1e-3, 0.5)}
    anywhere = allocate(graph, measured(cheap), {Goal.COMPRESSION: 2.0})
    assert anywhere.plan.layers["y"] == 0.75
    there = allocate(graph, measured(cheap), {Goal.COMPRESSION: 2.0}, device=ADRENO)
    assert there.plan.layers["y"] == 0.9
    assert there.ms is not None
    assert there.ms[1] < there.ms[0] == pytest.approx(network_ms(graph, ADRENO))


@pytest.mark.parametrize("goal", [Goal.SPEEDUP, Goal.LATENCY])
def test_times(graph: gs.Graph, goal: Goal) -> None:
    before = network_ms(graph, ADRENO)
    value = 1.4 if goal is Goal.SPEEDUP else before / 1.4
    found = allocate(graph, measured(ERRORS), {goal: value}, device=ADRENO)
    assert found.ms is not None
    assert found.ms[1] <= before / 1.4 * (1 + 1e-9)
    # What is promised is what the model says of the network once it is pruned so.
    for node in graph.nodes:
        ratio = found.plan.layers.get(node.outputs[0].name)
        if ratio is not None:
            weight = values_of(node.inputs[1]).copy()
            blocks = weight.reshape(8, 8, 16, 4, -1).transpose(0, 2, 4, 1, 3).reshape(-1, 8, 4)
            blocks[: round(ratio * len(blocks))] = 0
            shape = (8, 16, weight[0, 0].size, 8, 4)
            constant_in(node.inputs[1]).values = np.ascontiguousarray(
                blocks.reshape(shape).transpose(0, 3, 1, 4, 2)
            ).reshape(weight.shape)
    assert network_ms(graph, ADRENO) == pytest.approx(found.ms[1], rel=0.01)


def test_two_targets(graph: gs.Graph) -> None:
    """What reaches the time alone has too many multiply-adds, and the other way round."""
    time, size, both = (
        allocate(graph, measured(ERRORS), targets, device=ADRENO)
        for targets in (
            {Goal.SPEEDUP: 1.4},
            {Goal.COMPRESSION: 6},
            {Goal.SPEEDUP: 1.4, Goal.COMPRESSION: 6},
        )
    )
    assert both.macs[1] <= both.macs[0] / 6 < time.macs[1]
    assert both.ms is not None
    assert size.ms is not None
    assert both.ms[1] <= both.ms[0] / 1.4
    assert both.error >= max(time.error, size.error)


def test_bound_on_loss(graph: gs.Graph) -> None:
    """As much as fits: c by 0.75 and b by 0.75 lose 0.014 together, nothing more fits."""
    found = allocate(graph, measured(ERRORS), {Goal.LOSS: 0.0145})
    assert found.plan.layers == {"b": 0.75, "c": 0.75}


def test_factors_are_of_the_original(graph: gs.Graph, network: MakeGraph, normal: Normal) -> None:
    double = network(
        "float[1,64,64,64] x",
        "float[1,64,64,64] y",
        "a = Conv<pads=[1,1,1,1]>(x, w) y = Conv<pads=[1,1,1,1]>(a, w)",
        w=normal(64, 64, 3, 3),
    )
    found = allocate(graph, measured(ERRORS), {Goal.COMPRESSION: 1.5}, original=double)
    assert found.plan.layers == {}
    assert found.macs == (18 * 64**4, 12 * 64**4)


def test_out_of_reach(graph: gs.Graph) -> None:
    with pytest.raises(InputError, match=r"at most 10\.00 times fewer"):
        allocate(graph, measured(ERRORS), {Goal.COMPRESSION: 11})
    with pytest.raises(InputError, match="out of reach on adreno-640"):
        allocate(graph, measured(ERRORS), {Goal.LATENCY: 1e-3}, device=ADRENO)


def test_refusals(graph: gs.Graph) -> None:
    with pytest.raises(InputError, match="--speedup needs a device"):
        allocate(graph, measured(ERRORS), {Goal.SPEEDUP: 2})
    with pytest.raises(InputError, match="another network's"):
        allocate(graph, measured({"elsewhere": (0, 0, 0)}), {Goal.COMPRESSION: 2})


@dataclass(frozen=True)
class FakePruning(Pass[gs.Node]):
    """Remembers what it was made with."""

    name: ClassVar[str] = "prune-blocks"
    numerics: ClassVar[Numerics] = Numerics.APPROXIMATE
    plan: str = option("", "a file")

    def match(self, graph: gs.Graph) -> Iterator[gs.Node | Skip]:
        yield Skip("all", self.plan)

    def rewrite(self, graph: gs.Graph, site: gs.Node) -> Change | Skip:
        raise AssertionError


def test_pass_reads_the_plan_that_it_made(graph: gs.Graph, tmp_path: Path) -> None:
    """What runs is the pruning pass with the plan's file, and so says the pipeline's text."""
    told: list[str] = []
    chosen = PruneToTarget(
        targets={Goal.COMPRESSION: 1.5},
        device=None,
        pruning=FakePruning,
        plan=tmp_path / "net.plan.json",
        measured=measured(ERRORS),
        tell=told.append,
    )
    double = graph.copy()
    outcome = chosen.run(graph, Context(original=double, calibration=cast(Calibration, object())))
    expected = allocate(graph, measured(ERRORS), {Goal.COMPRESSION: 1.5})
    assert read_plan(tmp_path / "net.plan.json") == expected.plan
    assert outcome.skips == (Skip("all", str(tmp_path / "net.plan.json")),)
    assert str(chosen) == f"prune-blocks{{plan={tmp_path}/net.plan.json}}"
    assert told == [f"{expected} ({tmp_path}/net.plan.json)"]


def test_fewer_multiply_adds_alone_are_told_in_milliseconds(
    graph: gs.Graph, tmp_path: Path
) -> None:
    """What half of them is on the device; where a time is asked for, nothing is added."""
    told: list[str] = []

    def pruned(targets: Mapping[Goal, float]) -> list[str]:
        told.clear()
        chosen = PruneToTarget(
            targets=targets,
            device=ADRENO if Goal.SPEEDUP in targets else None,
            pruning=FakePruning,
            plan=tmp_path / "net.plan.json",
            measured=measured(ERRORS),
            tell=told.append,
            shown=ADRENO,
        )
        context = Context(original=graph.copy(), calibration=cast(Calibration, object()))
        chosen.run(graph.copy(), context)
        return told

    _, warning = pruned({Goal.COMPRESSION: 2.0})
    found = allocate(graph, measured(ERRORS), {Goal.COMPRESSION: 2.0})
    before, after = pruned_ms(graph, found.plan, ADRENO)
    assert before / after < 2
    assert f"{before:.1f} → {after:.1f} ms on adreno-640, {before / after:.2f} times" in warning
    assert "--speedup asks" in warning
    assert len(pruned({Goal.COMPRESSION: 1.2, Goal.SPEEDUP: 1.2})) == 1


def test_what_a_plan_buys_is_what_was_allocated(graph: gs.Graph) -> None:
    found = allocate(graph, measured(ERRORS), {Goal.SPEEDUP: 1.4}, device=ADRENO)
    assert pruned_ms(graph, found.plan, ADRENO) == pytest.approx(found.ms)


def test_has_a_name_of_its_own() -> None:
    known = find_passes()
    assert PRUNING in known
    assert PruneToTarget.name not in known


def test_targets_need_photos(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["optimize", str(tmp_path / "x.onnx"), "--compression", "2"])
    assert isinstance(result.exception, InputError)
    assert "--calib" in str(result.exception)


def test_ratios_between_those_that_were_measured() -> None:
    (layer,) = interpolated(measured({"a": (0.01, 0.04, 0.05)})).layers
    ratios = [loss.ratio for loss in layer.losses]
    assert ratios == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9]
    errors = dict(zip(ratios, [loss.error for loss in layer.losses], strict=True))
    assert [errors[r] for r in RATIOS] == pytest.approx([0.01, 0.04, 0.05])
    assert errors[0.65] == pytest.approx(0.01 * 4**0.6)
    assert layer.losses[3].oks == pytest.approx(1 - 0.001 * 4**0.6)
    assert max(loss.shift for loss in layer.losses) < 1e-5
