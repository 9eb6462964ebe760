"""The experiment's pass: blocks that change nothing, and what passes behind it make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from small_networks import MakeGraph, Normal, Ops, Rewrite

from graphopt.optimizer.pass_contract import AnyPass
from graphopt.optimizer.registry import find_passes
from graphopt.passes.prune_channels import PruneChannels

Deepen: Callable[..., AnyPass] = find_passes(
    [Path(__file__).parents[2] / "examples" / "deepen.py"]
)["deepen"]


@pytest.fixture
def graph(network: MakeGraph, normal: Normal) -> gs.Graph:
    return network(
        "float[1,3,8,8] x",
        "float[1,16,8,8] y, float[1,16,8,8] d",
        "a = Conv(x, w) b = Relu(a) c = Conv(b, v) d = Relu(c) e = Conv(d, u)"
        " f = Clip(e, zero, six) g = Conv(f, t) h = Sigmoid(g) y = Conv(h, s)",
        zero=np.float32(0),
        six=np.float32(6),
        w=normal(16, 3, 1, 1),
        **{name: 0.3 * normal(16, 16, 1, 1) for name in "vuts"},
    )


@pytest.mark.parametrize("blocks", [1, 2])
def test_it_is_deeper_and_gives_the_same(
    graph: gs.Graph, rewrite: Rewrite, ops: Ops, blocks: int
) -> None:
    deeper, outcome = rewrite(graph, Deepen(blocks=blocks), tolerance=0)
    assert len(outcome.changes) == 2  # not w, which is wider than what it reads
    assert ops(deeper).count("Conv") == 5 + 4 * blocks
    assert ops(deeper).count("Clip") == 1 + 2 * blocks
    reasons = [skip.reason for skip in outcome.skips]
    assert reasons == ["what follows is not Relu, or Clip from zero on"] * 2


def test_layers_by_name(graph: gs.Graph) -> None:
    outcome = Deepen(layers="e*").run(graph)
    assert [change.node for change in outcome.changes] == ["e"]


def test_channels_go_from_what_was_put_in_too(graph: gs.Graph) -> None:
    Deepen(layers="e*").run(graph)
    PruneChannels(ratio=0.5, narrow=1).run(graph)
    shapes = {node.name: node.inputs[1].shape for node in graph.nodes if node.op == "Conv"}
    assert shapes["e.look"] == (8, 1, 3, 3)
    assert shapes["e.mix"] == (8, 8, 1, 1)
