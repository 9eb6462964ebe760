"""`prune-blocks`: which blocks go, which layers are left alone, and that fits keep them zero."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from known import constant_in
from small_networks import HEAT_SPEC

from graphopt.errors import InputError
from graphopt.fitting.calibration import Calibration
from graphopt.ir.block_structure import BLOCKS, Block, kept_mask
from graphopt.ir.convolution import Convolution
from graphopt.ir.onnx_io import to_proto
from graphopt.optimizer.options import Extent
from graphopt.optimizer.pass_contract import Context, Skip
from graphopt.optimizer.syntax import parse_pipeline
from graphopt.passes.prune_blocks import PruneBlocks
from graphopt.runtime.differences import output_error

Network = Callable[..., gs.Graph]
Normal = Callable[..., np.ndarray]


@pytest.fixture
def net(network: Network, normal: Normal) -> gs.Graph:
    """First, two that share a weight, pointwise, depthwise, grouped, narrow, last."""
    return network(
        "float[1,3,24,32] x",
        "float[1,19,24,32] y",
        """first = Conv<pads=[1,1,1,1]>(x, w0) r0 = Relu(first)
           a = Conv<pads=[1,1,1,1]>(r0, w1, b1) r1 = Relu(a)
           b = Conv<pads=[1,1,1,1]>(r1, w1) r2 = Relu(b)
           c = Conv(r2, w2) r3 = Relu(c)
           depthwise = Conv<pads=[1,1,1,1], group=40>(r3, w3)
           grouped = Conv<group=2>(depthwise, w4)
           narrow = Conv(grouped, w5) wide = Conv(narrow, w6)
           last = Conv(wide, w7) y = Sigmoid(last)""",
        w0=normal(32, 3, 3, 3),
        w1=normal(32, 32, 3, 3) / 10,
        b1=normal(32),
        w2=normal(40, 32, 1, 1) / 5,
        w3=normal(40, 1, 3, 3),
        w4=normal(40, 20, 1, 1),
        w5=normal(31, 40, 1, 1),
        w6=normal(32, 31, 1, 1),
        w7=normal(19, 32, 1, 1),
    )


@pytest.fixture
def calibration(net: gs.Graph) -> Calibration:
    return Calibration.synthetic(net, HEAT_SPEC, count=6)


def weight(graph: gs.Graph, name: str) -> np.ndarray:
    (node,) = graph.tensors()[name].inputs
    spec = Convolution.of(node)
    assert spec is not None
    return spec.weight


@pytest.mark.parametrize("block", BLOCKS)
def test_the_smallest_blocks_go(net: gs.Graph, block: Extent) -> None:
    pruned = net.copy()
    (chosen,) = parse_pipeline(f"prune-blocks{{block={block}, ratio=0.6}}")
    outcome = chosen.run(pruned)
    onnx.checker.check_model(to_proto(pruned), full_check=True)
    assert [change.node for change in outcome.changes] == ["a", "b", "c"]
    assert f"blocks of {block} go" in outcome.changes[0].summary
    filters, channels = BLOCKS[block]
    for name in ("a", "b", "c"):
        before, after = weight(net, name), weight(pruned, name)
        mask = kept_mask(after, Block(filters, channels))
        assert np.count_nonzero(~mask) == int(0.6 * mask.size)
        norms: dict[bool, list[float]] = {True: [], False: []}
        for row, column, y, x in np.ndindex(mask.shape):
            part = before[filters * row : filters * (row + 1), :, y, x]
            part = part[:, channels * column : channels * (column + 1)]
            norms[bool(mask[row, column, y, x])].append(float((part**2).sum()))
        assert max(norms[False]) <= min(norms[True])
        assert (after[after != 0] == before[after != 0]).all()


def test_what_is_left_alone_says_why(net: gs.Graph) -> None:
    skips = {skip.node: skip.reason for skip in PruneBlocks().run(net.copy()).skips}
    assert skips == {
        "first": "it is the network's first",
        "depthwise": "it is depthwise",
        "grouped": "it is grouped",
        "narrow": "it is narrow: 40 channels in, 31 out",
        "wide": "it is narrow: 31 channels in, 32 out",
        "last": "its output reaches the network's without another convolution",
    }


def test_photos_say_what_a_block_is_worth(net: gs.Graph, calibration: Calibration) -> None:
    """Large weights on a channel that is always zero matter less than small ones elsewhere."""
    dead = weight(net, "first").copy()
    dead[:4] = 0
    constant_in(net.nodes[0].inputs[1]).values = dead
    loud = weight(net, "a").copy()
    loud[:, :4] *= 10
    net.nodes[2].inputs[1] = gs.Constant("loud", loud)
    plain, informed, asked = net.copy(), net.copy(), net.copy()
    outcome = PruneBlocks().run(plain)
    assert "of w^2" in outcome.changes[0].summary
    assert kept_mask(weight(plain, "a"), Block())[:, 0].all()
    outcome = PruneBlocks().run(informed, Context(net, calibration))
    assert "of w^2 E[x^2]" in outcome.changes[0].summary
    assert not kept_mask(weight(informed, "a"), Block())[:, 0].any()
    PruneBlocks(score="magnitude").run(asked, Context(net, calibration))
    np.testing.assert_array_equal(weight(asked, "a"), weight(plain, "a"))


def test_more_is_pruned_of_what_is_pruned(net: gs.Graph) -> None:
    PruneBlocks(ratio=0.3).run(net)
    was = kept_mask(weight(net, "a"), Block())
    again = PruneBlocks(ratio=0.3).run(net)
    assert not again.changes
    assert Skip("a", "86 of 288 blocks are zero already") in again.skips
    PruneBlocks(ratio=0.5).run(net)
    now = kept_mask(weight(net, "a"), Block())
    assert np.count_nonzero(~now) == 144
    assert not (now & ~was).any()


def test_a_plan(net: gs.Graph, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"block": "4x4", "layers": {"a": 0.25, "c": 0.75, "narrow": 0.5}}))
    pruned = net.copy()
    outcome = PruneBlocks(plan=str(file)).run(pruned)
    assert [change.node for change in outcome.changes] == ["a", "c"]
    skips = {skip.node: skip.reason for skip in outcome.skips}
    assert skips["b"] == "the plan leaves it alone"
    assert "narrow" in skips["narrow"]
    assert np.count_nonzero(~kept_mask(weight(pruned, "a"), Block(4, 4))) == 144
    assert (weight(pruned, "b") == weight(net, "b")).all()
    file.write_text(json.dumps({"layers": {"cc": 0.25}}))
    with pytest.raises(InputError, match="names the convolution 'cc'"):
        PruneBlocks(plan=str(file)).run(pruned)


def test_a_plan_with_photos(net: gs.Graph, calibration: Calibration, tmp_path: Path) -> None:
    """What a layer reads that the plan leaves alone need not be known."""
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"layers": {"c": 0.5}}))
    outcome = PruneBlocks(plan=str(file)).run(net, Context(net.copy(), calibration))
    assert [change.node for change in outcome.changes] == ["c"]
    assert "w^2 E[x^2]" in outcome.changes[0].summary


@pytest.mark.parametrize("masks", ["keep", "choose"])
def test_what_is_fitted_stays_pruned(net: gs.Graph, calibration: Calibration, masks: str) -> None:
    """The whole way: what is left makes up for what went, and only that."""
    pruned, fitted = net.copy(), net.copy()
    for graph, text in (
        (pruned, "prune-blocks"),
        (fitted, f"prune-blocks, reconstruct{{masks={masks}}}"),
    ):
        for chosen in parse_pipeline(text):
            chosen.run(graph, Context(net, calibration))
    before, after = (
        output_error(graph, net, calibration.feeds(calibration.held_out))
        for graph in (pruned, fitted)
    )
    assert after < 0.8 * before
    for name in ("a", "b", "c"):
        ours, theirs = weight(fitted, name), weight(pruned, name)
        same = ((ours == 0) == (theirs == 0)).all()
        assert same == (masks == "keep")
        assert np.count_nonzero(kept_mask(ours, Block())) == np.count_nonzero(
            kept_mask(theirs, Block())
        )
        assert (ours != theirs).any()
