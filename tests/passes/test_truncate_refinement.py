"""`truncate-refinement`: cascades are found by their form, and cut after any stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from small_networks import MakeGraph, Normal, Ops

from graphopt.errors import InputError
from graphopt.ir.onnx_io import load_model, to_proto
from graphopt.optimizer.syntax import parse_pipeline
from graphopt.passes.truncate_refinement import TruncateRefinement
from graphopt.runtime.engine import OnnxRuntimeEngine


def values(graph: gs.Graph, outputs: list[str] | None = None) -> dict[str, np.ndarray]:
    graph = graph.copy()
    if outputs is not None:
        graph.outputs = [graph.tensors()[name] for name in outputs]
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    return OnnxRuntimeEngine(to_proto(graph).SerializeToString(), threads=1).run({"x": x})


@pytest.fixture
def pose(network: MakeGraph, normal: Normal) -> MakeGraph:
    """A network of four stages; `ends` says what becomes of each stage's maps."""

    def make(
        ends: str, outputs: str, *, stages: int = 4, join: str = "Concat<axis=1>(f, h, p)"
    ) -> gs.Graph:
        body = "f0 = Conv<pads=[1, 1, 1, 1]>(x, w) f = Relu(f0)"
        body += " h1 = Conv(f, heat1) p1 = Conv(f, paf1)"
        weights = {"w": normal(6, 3, 3, 3), "heat1": normal(3, 6, 1, 1), "paf1": normal(4, 6, 1, 1)}
        for n in range(2, stages + 1):
            joined = join.replace("h", f"h{n - 1}").replace("p", f"p{n - 1}")
            body += f" j{n} = {joined} r{n} = Relu(j{n})"
            body += f" h{n} = Conv(r{n}, heat{n}) p{n} = Conv(r{n}, paf{n})"
            weights[f"heat{n}"] = normal(3, 13, 1, 1)
            weights[f"paf{n}"] = normal(4, 13, 1, 1)
        return network("float[1,3,8,8] x", outputs, f"{body} {ends}", **weights)

    return make


HEAT, PAF = "float[1,3,8,8]", "float[1,4,8,8]"


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_outputs_give_an_earlier_stage(pose: MakeGraph, stages: int) -> None:
    graph = pose("heat = Identity(h4) paf = Identity(p4)", f"{PAF} paf, {HEAT} heat")
    wanted = values(graph, [f"h{stages}", f"p{stages}"])
    short = graph.copy()
    outcome = TruncateRefinement(stages=stages).run(short)
    assert outcome.changes[0].summary == f"4 stages become {stages}"
    onnx.checker.check_model(to_proto(short), full_check=True)
    assert [t.name for t in short.outputs] == ["paf", "heat"]
    got = values(short)
    assert np.array_equal(got["heat"], wanted[f"h{stages}"])
    assert np.array_equal(got["paf"], wanted[f"p{stages}"])
    assert sum(node.op == "Concat" for node in short.nodes) == stages - 1


def test_the_maps_themselves_are_outputs(pose: MakeGraph) -> None:
    graph = pose("", f"{HEAT} h4, {PAF} p4")
    wanted = values(graph, ["h2", "p2"])
    TruncateRefinement(stages=2).run(graph)
    got = values(graph)
    assert np.array_equal(got["h4"], wanted["h2"])
    assert np.array_equal(got["p4"], wanted["p2"])


def test_every_stage_is_an_output(pose: MakeGraph) -> None:
    """As training code exports them: then what is left out repeats the last stage that is kept."""
    names = [f"{kind}{n}" for n in range(1, 5) for kind in "hp"]
    graph = pose("", ", ".join(f"{HEAT if n[0] == 'h' else PAF} {n}" for n in names))
    before = values(graph)
    TruncateRefinement(stages=2).run(graph)
    after = values(graph)
    assert list(after) == names
    for name in names:
        assert np.array_equal(after[name], before[f"{name[0]}{min(int(name[1]), 2)}"])


def test_one_output_of_all_maps_upscaled(pose: MakeGraph) -> None:
    graph = pose(
        "c = Concat<axis=1>(p4, h4) s = Sigmoid(c) "
        "scales = Constant<value_floats=[1.0, 1.0, 2.0, 2.0]>() y = Resize(s, , scales)",
        "float[1,7,16,16] y",
        join="Concat<axis=-3>(p, f, h)",
    )
    wanted = values(graph, ["p1", "h1"])
    TruncateRefinement(stages=1).run(graph)
    got = values(graph)["y"][:, :, ::2, ::2]
    logits = np.concatenate([wanted["p1"], wanted["h1"]], axis=1)
    assert np.allclose(got, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_no_more_stages_than_are_kept(pose: MakeGraph) -> None:
    graph = pose("", f"{HEAT} h4, {PAF} p4")
    nodes = len(graph.nodes)
    outcome = TruncateRefinement(stages=4).run(graph)
    assert not outcome.changes
    assert outcome.skips[0].reason == "there are 4 stages"
    assert len(graph.nodes) == nodes


NO_CASCADE = {
    "a dense block": "a = Conv(x, w) b = Concat<axis=1>(x, a) c = Conv(b, v) y = Conv(c, u)",
    "what joins is an output": "a = Conv(x, w) y = Concat<axis=1>(x, a)",
    "another number of channels": "a = Conv(x, w) b = Concat<axis=1>(x, a) y = Conv(b, z)",
    "another operator": "a = Sigmoid(x) b = Concat<axis=1>(x, a) y = Conv(b, v)",
    "a way around the maps": (
        "a = Conv(x, w) b = Concat<axis=1>(x, a) c = Conv(b, v) d = ReduceMean<axes=[1]>(b) "
        "y = Add(c, d)"
    ),
    "two candidates": (
        "a = Conv(x, w) b = Concat<axis=1>(x, a) c = Conv(b, v) d = Conv(b, v) y = Add(c, d)"
    ),
}


@pytest.mark.parametrize("body", NO_CASCADE.values(), ids=NO_CASCADE)
def test_what_only_looks_like_a_cascade(
    network: MakeGraph, normal: Normal, ops: Ops, body: str
) -> None:
    weights = {"w": normal(3, 3, 1, 1), "v": normal(3, 6, 1, 1), "u": normal(3, 3, 1, 1)}
    graph = network("float[1,3,8,8] x", "float[1,c,h,k] y", body, **weights, z=normal(5, 6, 1, 1))
    before = ops(graph)
    outcome = TruncateRefinement(stages=1).run(graph)
    assert not outcome.changes
    assert ops(graph) == before


def test_stages_that_are_averaged(pose: MakeGraph) -> None:
    """Whoever reads a stage that goes reads the last one that stays."""
    graph = pose("s = Sum(h4, h3, h1)", "float[1,3,8,8] s")
    wanted = values(graph, ["h1", "h2"])
    TruncateRefinement(stages=2).run(graph)
    assert np.allclose(values(graph)["s"], 2 * wanted["h2"] + wanted["h1"], atol=1e-4)
    assert sum(node.op == "Concat" for node in graph.nodes) == 1


def test_maps_that_do_not_correspond(network: MakeGraph, normal: Normal) -> None:
    graph = network(
        "float[1,3,8,8] x",
        "float[1,3,8,8] y",
        "f = Relu(x) a = Conv(f, w) j = Concat<axis=1>(f, a)"
        " b = Conv(j, grow) k = Concat<axis=1>(f, b) y = Conv(k, shrink)",
        w=normal(3, 3, 1, 1),
        grow=normal(5, 6, 1, 1),
        shrink=normal(3, 8, 1, 1),
    )
    outcome = TruncateRefinement(stages=1).run(graph)
    assert not outcome.changes
    assert "not as stages" in outcome.skips[0].reason


def test_the_number_of_stages_must_be_given() -> None:
    with pytest.raises(InputError, match="needs the option stages"):
        parse_pipeline("truncate-refinement")
    with pytest.raises(InputError, match="cannot be '0'"):
        parse_pipeline("truncate-refinement{stages=0}")


@pytest.mark.assets
def test_trained_networks(tfpose: Path, lwop: Path) -> None:
    for path, stages in ((tfpose, 6), (lwop, 2)):
        graph = load_model(path)
        names = [t.name for t in graph.outputs]
        outcome = TruncateRefinement(stages=1).run(graph)
        assert [change.summary for change in outcome.changes] == [f"{stages} stages become 1"]
        assert [t.name for t in graph.outputs] == names
        assert not any("tage2" in node.name for node in graph.nodes)
