"""What layers cost in eight bits, which stay float for it, and channels scaled below a Relu6."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from small_networks import HEAT_SPEC

from graphopt.analysis.compare import PoseChange
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.layerwise_runner import make_session
from graphopt.fitting.quantization.costs import TOLERANCE, Cost, costliest, reasons_of
from graphopt.fitting.quantization.equalisation import equalise
from graphopt.fitting.quantization.grids import Grid
from graphopt.fitting.quantization.observe import observe
from graphopt.fitting.quantization.placement import placement_of
from graphopt.fitting.quantization.qdq import store, store_all
from graphopt.ir.changes import ALL
from graphopt.ir.network import Network as Graph
from graphopt.ir.onnx_io import serialised
from graphopt.optimizer.int8_budget import MANY_PEOPLE, ONE_PERSON, kind_of
from graphopt.optimizer.pass_contract import Context, Outcome
from graphopt.optimizer.syntax import parse_pipeline
from graphopt.pose.map_slices import MapSlice
from graphopt.runtime.differences import output_error
from graphopt.runtime.engine import OnnxRuntimeEngine

Network = Callable[..., gs.Graph]
Normal = Callable[..., np.ndarray]


def images(graph: gs.Graph) -> Calibration:
    return Calibration.synthetic(graph, HEAT_SPEC, count=10)


def quantised(graph: gs.Graph, options: str = "") -> tuple[gs.Graph, Outcome]:
    (chosen,) = parse_pipeline(f"quantize{options}")
    result = Graph.of(graph).copy()
    return result, chosen.run(result, Context(Graph.of(graph).copy(), images(graph)))


def maker(graph: gs.Graph, name: str) -> gs.Node:
    return graph.tensors()[name].inputs[0]


def error(graph: gs.Graph, original: gs.Graph) -> float:
    calibration = images(original)
    return output_error(graph, original, calibration.feeds(calibration.held_out))


def test_channels_below_the_limit_of_a_relu6_are_scaled(network: Network, normal: Normal) -> None:
    graph = network(
        "float[1,3,24,32] x",
        "float[1,19,24,32] y",
        """a = Conv(x, w0) r = Clip(a, low, high) b = Conv<pads=[1,1,1,1], group=8>(r, w1)
           y = Conv(b, w2)""",
        w0=normal(8, 3, 1, 1) * np.geomspace(1e-4, 1, 8, dtype=np.float32).reshape(8, 1, 1, 1),
        w1=normal(8, 1, 3, 3),
        w2=normal(19, 8, 1, 1),
        low=np.float32(0),
        high=np.float32(6),
    )
    placement = placement_of(graph)
    calibration = images(graph)

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        return calibration.feeds(calibration.fitting)

    seen = observe(graph, feeds, list(placement.grids), {}, count=8, seed=0).tensors
    scaled = Graph.of(graph).copy()
    divided = equalise(scaled, placement_of(scaled), seen)["r"]
    assert output_error(scaled, graph, feeds()) < 1e-5
    largest = seen["r"].high / divided
    assert largest.max() <= 6
    assert (divided[seen["r"].high == 6] == 1).all()
    assert (divided < 0.5).any()
    assert np.ptp(largest[largest > 0]) < np.ptp(seen["r"].high)


def test_what_costs_the_outputs_most_stays_float(
    network: Network, normal: Normal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a Swish channels cannot be scaled, and the quiet ones are lost in eight bits."""
    loudness = np.geomspace(1, 1000, 16, dtype=np.float32).reshape(16, 1, 1, 1)
    graph = network(
        "float[1,3,24,32] x",
        "float[1,19,24,32] y",
        """a = Conv(x, w0) g = Sigmoid(a) s = Mul(a, g)
           b = Conv<pads=[1,1,1,1], group=16>(s, w1)
           c = Conv<pads=[1,1,1,1]>(b, w2) r = Relu(c) y = Conv(r, w3)""",
        w0=normal(16, 3, 1, 1) * loudness,
        w1=normal(16, 1, 3, 3) / loudness,
        w2=normal(64, 16, 3, 3),
        w3=normal(19, 64, 1, 1),
    )
    monkeypatch.setattr("graphopt.optimizer.int8_budget.Budget.holds", lambda *_: True)
    whole, outcome = quantised(graph, "{float_share=0}")
    assert not outcome.skips
    result, outcome = quantised(graph)
    every, skip = outcome.skips
    assert every.node == ALL
    assert every.reason.startswith("1 of 4 layers, with 1% of the multiply-adds, stay float")
    assert skip.node == "b"
    assert "of the multiply-adds" in skip.reason
    assert isinstance(maker(result, "b").inputs[1], gs.Constant)
    assert error(result, graph) < 0.5 * error(whole, graph)


def joined(network: Network, normal: Normal) -> gs.Graph:
    """Features beside maps that are a thousand times as small, and matter as much."""
    return network(
        "float[1,3,24,32] x",
        "float[1,19,24,32] y",
        """a = Conv(x, w0) e = Elu(a) b = Conv(e, w1) m = Sigmoid(b) f = Conv(e, w2) g = Elu(f)
           n = Mul(m, quiet) j = Concat<axis=1>(g, n) s = Add(j, j) z = Conv(s, w3)
           k = Conv(j, w3) y = Add(k, z)""",
        w0=normal(8, 3, 1, 1),
        w1=normal(8, 8, 1, 1),
        w2=normal(8, 8, 1, 1),
        w3=normal(19, 16, 1, 1),
        quiet=np.float32(1e-3),
    )


def test_tensors_apart_have_grids_of_their_own_which_layers_alone_see(
    network: Network, normal: Normal
) -> None:
    graph = joined(network, normal)
    together, apart = placement_of(graph), placement_of(graph, joint=False)
    assert together.grids["j"] == together.grids["g"] == together.grids["n"]
    assert apart.grids == {name: name for name in ("x", "e", "j", "s")}
    assert not apart.carriers
    store_all(graph, apart, dict.fromkeys(apart.grids, Grid.over(-4, 4)))
    assert [t.name for t in maker(graph, "s").inputs] == ["j", "j"]
    assert maker(graph, "k").inputs[0].name == "j.dequantized"
    assert [t.name for t in maker(graph, "j").inputs] == ["g", "n"]


@pytest.mark.parametrize("holds", [True, False])
def test_where_rounding_costs_much_grids_are_not_shared_and_poses_are_judged(
    holds: bool, network: Network, normal: Normal, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = joined(network, normal)
    monkeypatch.setattr("graphopt.fitting.quantization.quantization.TROUBLE", 0.0)
    judged = []

    def change(self: object, floats: Collection[str]) -> PoseChange:
        judged.append(set(floats))
        return PoseChange(1, 0.1, 9, 0, 0, mean_shift=0, oks=1.0 if holds or floats else 0.9)

    monkeypatch.setattr("graphopt.optimizer.int8_budget._Judge.change", change)
    result, outcome = quantised(graph, "{float_share=0.9}")
    assert maker(result, "j").inputs[0].name == "g"
    budget = [skip for skip in outcome.skips if "hold the budget" in skip.reason]
    assert bool(budget) is not holds
    assert judged[0] == set()
    assert all("of the multiply-adds" in skip.reason for skip in outcome.skips)
    _, outcome = quantised(graph, "{float_share=0}")
    assert not outcome.skips


def test_one_person_is_to_be_kept_closer_than_many() -> None:
    paf = MapSlice(output="y", first=0, count=38, layout="nchw")
    assert kind_of(HEAT_SPEC) is ONE_PERSON
    assert kind_of(replace(HEAT_SPEC, paf=paf)) is MANY_PEOPLE
    assert ONE_PERSON.drop < MANY_PEOPLE.drop


def test_the_costliest_for_their_work_stay_float_while_the_share_lasts() -> None:
    cheap, dear, large = Cost(("a",), 0.2, 0.01), Cost(("b",), 0.3, 0.03), Cost(("c",), 0.9, 0.5)
    quiet = Cost(("d",), TOLERANCE / 20, 0.001)
    assert costliest([quiet, cheap, large, dear], 0.05) == [dear, cheap]
    assert costliest([quiet, cheap, large, dear], 0.01) == [cheap]
    assert costliest([Cost(("d",), TOLERANCE / 2, 0.001)], 1.0) == []
    assert list(reasons_of([dear, cheap])) == ["b", "a"]


def test_float_weights_between_pairs_are_looked_at_as_they_are(
    network: Network, normal: Normal
) -> None:
    """onnxruntime rounds them, with one step for channels that are 100 times apart."""
    loudness = np.geomspace(0.01, 1, 16, dtype=np.float32).reshape(16, 1, 1, 1)
    graph = network(
        "float[1,3,24,32] x",
        "float[1,19,24,32] y",
        "a = Conv(x, w0) r = Relu(a) y = Conv(r, w1)",
        w0=normal(16, 3, 1, 1) * loudness,
        w1=normal(19, 16, 1, 1) / loudness.reshape(1, 16, 1, 1),
    )
    for name, largest in (("x", 4.0), ("r", 8.0)):
        store(graph, graph.tensors()[name], Grid.over(-largest if name == "x" else 0, largest))
    feed = {"x": normal(1, 3, 24, 32)}
    with serialised(graph) as model:
        written = OnnxRuntimeEngine(model, optimize=False).run(feed)["y"]
        rounded = OnnxRuntimeEngine(model).run(feed)["y"]
    made = make_session(graph).run(feed)["y"]
    assert np.allclose(made, written, atol=1e-4)
    assert not np.allclose(rounded, written, atol=1e-2)
