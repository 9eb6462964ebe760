"""`quantize`: the pairs that it writes, the numbers in them, and what it leaves alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from small_networks import HEAT_SPEC

from graphopt.analysis.compare import PoseChange
from graphopt.errors import InputError, UsageError
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.patch_sampling import Sample
from graphopt.fitting.quantization.equalisation import equalise
from graphopt.fitting.quantization.grids import Grid
from graphopt.fitting.quantization.observe import observe
from graphopt.fitting.quantization.ordinary import ordinary
from graphopt.fitting.quantization.placement import placement_of
from graphopt.fitting.quantization.ranges import least_error
from graphopt.fitting.quantization.rounding import rounded, steps_of, whole_of
from graphopt.ir.block_structure import BLOCKS, BlockName
from graphopt.ir.changes import ALL
from graphopt.ir.graph import constant_of
from graphopt.ir.network import Network as Graph
from graphopt.ir.onnx_io import to_proto
from graphopt.optimizer.optimize import optimize, quantizing
from graphopt.optimizer.options import OptimizeOptions
from graphopt.optimizer.pass_contract import Context, Outcome
from graphopt.optimizer.syntax import parse_pipeline
from graphopt.passes.quantize import Quantize
from graphopt.runtime.differences import output_error
from graphopt.runtime.engine import OnnxRuntimeEngine

Network = Callable[..., gs.Graph]
Normal = Callable[..., np.ndarray]


@pytest.fixture
def net(network: Network, normal: Normal) -> gs.Graph:
    """Dense and depthwise layers, a sum, a pool, a concatenation, and a last layer."""
    return network(
        "float[1,3,24,32] x",
        "float[1,19,12,16] y",
        """a = Conv<pads=[1,1,1,1]>(x, w0, b0) r0 = Relu(a)
           b = Conv<pads=[1,1,1,1], group=16>(r0, w1) r1 = Relu(b)
           c = Conv(r1, w2) s = Add(r0, c) r2 = Relu(s)
           p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r2)
           d = Conv(p, w3) e = Elu(d) j = Concat<axis=1>(p, e)
           y = Conv(j, w4)""",
        w0=normal(16, 3, 3, 3),
        b0=normal(16),
        w1=normal(16, 1, 3, 3) * np.geomspace(1 / 16, 8, 16, dtype=np.float32).reshape(16, 1, 1, 1),
        w2=normal(16, 16, 1, 1),
        w3=normal(8, 16, 1, 1),
        w4=normal(19, 24, 1, 1),
    )


def images(graph: gs.Graph) -> Calibration:
    return Calibration.synthetic(graph, HEAT_SPEC, count=10)


def quantised(graph: gs.Graph, options: str = "") -> tuple[gs.Graph, Outcome]:
    (chosen,) = parse_pipeline(f"quantize{options}")
    result = Graph.of(graph).copy()
    outcome = chosen.run(result, Context(Graph.of(graph).copy(), images(graph)))
    onnx.checker.check_model(to_proto(result), full_check=True)
    return result, outcome


def maker(graph: gs.Graph, name: str) -> gs.Node:
    return graph.tensors()[name].inputs[0]


def numbers(tensor: gs.Tensor) -> np.ndarray:
    values = constant_of(tensor)
    assert values is not None
    return values


def error(graph: gs.Graph, original: gs.Graph) -> float:
    calibration = images(original)
    return output_error(graph, original, calibration.feeds(calibration.held_out))


def test_pairs_stand_where_an_engine_keeps_eight_bits(net: gs.Graph) -> None:
    result, outcome = quantised(net)
    ops = Counter(node.op for node in result.nodes)
    stored = {n.outputs[0].name.removesuffix(".quantized") for n in result.nodes if n.op[0] == "Q"}
    assert stored == {"x", "r0", "r1", "c", "r2", "p", "e", "j"}
    assert ops["QuantizeLinear"] == len(stored)
    assert ops["DequantizeLinear"] == len(stored) + 2 * 5  # weights and biases
    assert "Relu" not in ops  # the rounding does it
    assert [t.name for t in result.outputs] == ["y"]
    assert maker(result, "y").op == "Conv"
    assert {change.node for change in outcome.changes} >= {"a", "b", "c", "d", "y", "s", "p", "j"}
    assert error(result, net) < 0.1


def test_weights_have_a_scale_for_each_filter_and_biases_that_of_both(net: gs.Graph) -> None:
    result, _ = quantised(net)
    conv = maker(result, "y")
    given, weight, bias = (tensor.inputs[0] for tensor in conv.inputs)
    assert weight.attrs["axis"] == 0
    assert numbers(weight.inputs[0]).dtype == np.int8
    assert numbers(weight.inputs[0]).min() >= -127
    assert numbers(weight.inputs[1]).shape == (19,)
    assert not numbers(weight.inputs[2]).any()
    assert numbers(bias.inputs[0]).dtype == np.int32
    step = numbers(given.inputs[1]) * numbers(weight.inputs[1])
    np.testing.assert_allclose(numbers(bias.inputs[1]), step, rtol=1e-6)


def test_zero_points_follow_ranges(net: gs.Graph) -> None:
    result, _ = quantised(net)
    zeros = {
        node.outputs[0].name.removesuffix(".quantized"): numbers(node.inputs[2])
        for node in result.nodes
        if node.op == "QuantizeLinear"
    }
    assert all(zero.dtype == np.uint8 for zero in zeros.values())
    assert zeros["r0"] == zeros["r1"] == zeros["r2"] == 0
    assert zeros["c"] > 0
    assert zeros["p"] == zeros["e"] == zeros["j"]  # joined


def test_activations_may_be_signed(net: gs.Graph) -> None:
    result, _ = quantised(net, "{activations=int8}")
    zeros = [numbers(node.inputs[2]) for node in result.nodes if node.op == "QuantizeLinear"]
    assert {zero.dtype for zero in zeros} == {np.dtype(np.int8)}
    assert min(zeros) == -128
    assert "Relu" not in {node.op for node in result.nodes}
    assert error(result, net) < 0.1


def test_a_clip_is_done_by_the_rounding(network: Network, normal: Normal) -> None:
    graph = network(
        "float[1,3,24,32] x",
        "float[1,19,24,32] y",
        "a = Conv(x, w0) b = Clip(a, zero, six) y = Conv(b, w1)",
        w0=9 * normal(8, 3, 1, 1),
        w1=normal(19, 8, 1, 1),
        zero=np.float32(0),
        six=np.float32(6),
    )
    result, _ = quantised(graph)
    assert "Clip" not in {node.op for node in result.nodes}
    scale = numbers(maker(result, "b.quantized").inputs[1])
    assert 5 < 255 * scale <= 6 * (1 + 1e-6)
    assert error(result, graph) < 0.1


def test_integers_are_what_onnxruntime_computes(network: Network, normal: Normal) -> None:
    """QLinearConv on the file is the sum of whole numbers, within a step."""
    graph = network(
        "float[1,3,24,32] x",
        "float[1,19,24,32] y",
        "a = Conv(x, w0, b0) b = Relu(a) y = Conv(b, w1)",
        w0=normal(8, 3, 1, 1),
        b0=normal(8),
        w1=normal(19, 8, 1, 1),
    )
    result, _ = quantised(graph)
    feed = next(images(graph).feeds([3]))
    first, quantize = maker(result, "a"), maker(result, "b.quantized")
    given, weight, bias = (tensor.inputs[0] for tensor in first.inputs)
    step, zero = numbers(given.inputs[1]), numbers(given.inputs[2]).astype(np.int64)
    whole = np.clip(np.rint(feed["x"] / step) + zero, 0, 255).astype(np.int64) - zero
    sums = np.einsum("nchw,oc->nohw", whole, numbers(weight.inputs[0])[:, :, 0, 0].astype(np.int64))
    sums = (sums + numbers(bias.inputs[0])[:, None, None]) * numbers(bias.inputs[1])[:, None, None]
    expected = np.clip(np.rint(sums / numbers(quantize.inputs[1])), 0, 255)
    result.outputs = [quantize.outputs[0]]
    made = OnnxRuntimeEngine(to_proto(result).SerializeToString()).run(feed)
    assert np.abs(made["b.quantized"].astype(int) - expected).max() <= 1


def test_onnxruntime_fuses_the_pairs(net: gs.Graph, tmp_path: Path) -> None:
    result, _ = quantised(net)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(to_proto(result).SerializeToString(), options)
    fused = Counter(n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert fused["QLinearConv"] == 3  # not those with an Elu behind, and not the last one
    assert fused["QLinearAdd"] == fused["QLinearConcat"] == 1


def test_scaled_channels_compute_the_same(net: gs.Graph) -> None:
    scaled, placement = Graph.of(net).copy(), placement_of(net)
    calibration = images(net)
    feeds = lambda: calibration.feeds(calibration.fitting)  # noqa: E731
    seen = observe(net, feeds, list(placement.grids), {}, count=8, seed=0)
    divided = equalise(scaled, placement_of(scaled), seen.tensors)
    assert np.ptp(divided["r1"]) > 0
    assert "r0" not in divided  # the sum reads it
    assert error(scaled, net) < 1e-5
    filled = seen.divided(divided).tensors["r1"].high
    assert filled.max() / filled.min() < (s := seen.tensors["r1"].high).max() / s.min()


def test_zeros_stay_zero(net: gs.Graph) -> None:
    weight = numbers(maker(net, "d").inputs[1]).copy()
    weight[:, 4:8] = 0
    maker(net, "d").inputs[1] = gs.Constant("pruned", weight)
    result, _ = quantised(net)
    whole = numbers(maker(result, "d").inputs[1].inputs[0].inputs[0])
    assert not whole[:, 4:8].any()
    assert whole[:, :4].any(axis=0).all()


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("ridge", [1e-2, 1e-6])
def test_what_was_pruned_stays_pruned(
    block: BlockName, ridge: float, network: Network, normal: Normal
) -> None:
    """Blocks of each extent, in layers behind which channels are scaled, and fitted or not."""
    graph = network(
        "float[1,3,24,32] x",
        "float[1,19,24,32] y",
        """a = Conv<pads=[1,1,1,1]>(x, w0) r0 = Relu(a)
           b = Conv<pads=[1,1,1,1]>(r0, w1) r1 = Relu(b)
           c = Conv<pads=[1,1,1,1], group=40>(r1, w2) r2 = Relu(c)
           d = Conv(r2, w3) r3 = Relu(d) y = Conv(r3, w4)""",
        w0=normal(34, 3, 3, 3),
        w1=normal(40, 34, 3, 3),
        w2=normal(40, 1, 3, 3),
        w3=normal(40, 40, 1, 1),
        w4=normal(19, 40, 1, 1),
    )
    pruned = parse_pipeline(f"prune-blocks{{ratio=0.45, block={block}, narrow=1}}")[0]
    outcome = pruned.run(graph, Context(Graph.of(graph).copy(), images(graph)))
    assert {change.node for change in outcome.changes} == {"b", "d"}
    before = {name: numbers(maker(graph, name).inputs[1]) for name in ("b", "d")}
    result, _ = quantised(graph, f"{{ridge={ridge}}}")
    for name, weight in before.items():
        whole = numbers(maker(result, name).inputs[1].inputs[0].inputs[0])
        assert not whole[weight == 0].any()
        assert np.count_nonzero(whole) > 0.9 * np.count_nonzero(weight)
        assert not numbers(maker(result, name).inputs[1].inputs[0].inputs[2]).any()


UP = "strides=[2,2], pads=[1,1,1,1]"
KINDS = {
    "4x4": (f"y = ConvTranspose<{UP}>(r, w)", (12, 7, 4, 4), 1),
    "3x3": (f"y = ConvTranspose<{UP}, output_padding=[1,1]>(r, w)", (12, 7, 3, 3), 1),
    "2x2": ("y = ConvTranspose<strides=[2,2]>(r, w)", (12, 7, 2, 2), 1),
    "uneven": (
        "y = ConvTranspose<strides=[2,3], dilations=[2,1], pads=[0,1,1,0]>(r, w)",
        (12, 7, 3, 2),
        1,
    ),
    "groups": ("y = Conv<group=4>(r, w)", (8, 3, 3, 3), 0),
    "two filters a channel": ("y = Conv<group=12>(r, w)", (24, 1, 3, 3), 0),
    "strided and dilated": (
        "y = Conv<group=12, strides=[2,2], dilations=[2,2]>(r, w)",
        (12, 1, 3, 3),
        0,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_convolution_is_fitted(kind: str, network: Network, normal: Normal) -> None:
    """With a scale for each filter, and an error on held-out photos."""
    body, shape, axis = KINDS[kind]
    outputs = shape[axis]
    spread = np.geomspace(0.1, 4, outputs).reshape([-1 if i == axis else 1 for i in range(4)])
    weight = (normal(*shape) * spread).astype(np.float32)
    graph = network(
        "float[1,3,24,32] x",
        f"float[1,{outputs},a,b] y",
        f"h = Conv(x, w0) r = Relu(h) {body}",
        w0=normal(12, 3, 3, 3),
        w=weight,
    )
    result, outcome = quantised(graph)
    layer = next(node for node in result.nodes if node.outputs[0].name == "y")
    pair = layer.inputs[1].inputs[0]
    assert numbers(pair.inputs[1]).shape == (outputs,)
    assert pair.attrs["axis"] == axis
    assert len(layer.inputs) == 3  # the bias makes up for rounding in the mean
    assert "error on held-out photos 0.0" in outcome.changes[-1].summary
    assert error(result, graph) < 0.02


@pytest.mark.parametrize("kind", [kind for kind, (*_, axis) in KINDS.items() if axis])
def test_a_transposed_convolution_is_an_ordinary_one(
    kind: str, network: Network, normal: Normal
) -> None:
    body, shape, _ = KINDS[kind]
    graph = network("float[1,12,6,9] r", "float[1,7,a,b] y", body, w=normal(*shape))
    layer = ordinary(graph.nodes[0])
    assert layer is not None
    assert layer.can_be_fitted
    np.testing.assert_array_equal(
        layer.as_written(layer.spec.weight), numbers(graph.nodes[0].inputs[1])
    )
    x = normal(1, 12, 6, 9)
    expected = OnnxRuntimeEngine(to_proto(graph).SerializeToString()).run({"r": x})["y"]
    everywhere = Sample.everywhere(expected)
    patches = everywhere.patches(layer.seen(x), layer.spec)[0, :, :-1]
    got = patches @ layer.spec.weight.reshape(7, -1).T
    np.testing.assert_allclose(got, everywhere.values, atol=1e-4)


def test_it_is_better_than_the_nearest_numbers() -> None:
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((4000, 12)) @ rng.standard_normal((12, 12))
    seen = np.concatenate([seen + 1, np.ones((4000, 1))], axis=1)[None]
    weights = rng.standard_normal((1, 13, 5))
    system = seen.transpose(0, 2, 1) @ seen
    steps = 8 * steps_of(weights[:, :-1], np.ones((1, 12)))  # coarse: four bits
    whole, bias = rounded(weights, system, steps)
    plain = whole_of(weights[:, :-1], steps[:, None])

    def lost(numbers: np.ndarray, offsets: np.ndarray) -> float:
        values = np.concatenate([numbers * steps[:, None], offsets[:, None]], axis=1)
        return float(np.square(seen @ (values - weights)).mean())

    assert np.array_equal(whole, np.rint(whole))
    assert lost(whole, bias) < 0.7 * lost(plain, weights[:, -1])


def test_a_range_leaves_out_what_is_rare(net: gs.Graph) -> None:
    calibration = images(net)
    feeds = lambda: calibration.feeds(calibration.fitting)  # noqa: E731
    seen = observe(net, feeds, ["x"], {}, count=8, seed=0).tensors["x"]
    seen.values[:] = np.random.default_rng(0).standard_normal(seen.values.shape)
    seen.high[:], seen.low[:] = 100, -3
    grid = least_error([seen], [np.ones(3)])
    assert 3 < grid.high < 30
    assert grid.low < -2.5
    assert Grid.over(-1, 3).nearest(np.float32(0)) == 0


def test_a_budget_leaves_the_costliest_layers_float(
    net: gs.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poses are said to suffer from `a` and `d`, and from nothing else; `d` has a tenth of the
    work of `a`."""
    costs = {"a": 0.2, "d": 0.1}

    def change(self: object, floats: Collection[str]) -> PoseChange:
        lost = sum(cost for name, cost in costs.items() if name not in floats)
        return PoseChange(1, lost, 9, 0, 0, mean_shift=10 * lost, oks=1 - lost)

    def alone(self: object, floats: Collection[str], every: Collection[str]) -> float:
        (name,) = set(every) - set(floats)
        return costs.get(name, 0.01)

    monkeypatch.setattr("graphopt.optimizer.int8_budget._Judge.change", change)
    monkeypatch.setattr("graphopt.optimizer.int8_budget._Judge.error", alone)
    for options, floats in (
        ("{max_ap_drop=0.35}", set()),
        ("{max_ap_drop=0.25}", {"d"}),
        ("{max_shift=0.5}", {"a", "d"}),
    ):
        result, outcome = quantised(net, options)
        assert {skip.node for skip in outcome.skips} == floats | ({ALL} if floats else set())
        assert all("hold the budget" in s.reason for s in outcome.skips if s.node != ALL)
        plain = {n for n in "abcdy" if isinstance(maker(result, n).inputs[1], gs.Constant)}
        assert plain == floats
        assert error(result, net) < 0.1


def test_int8_needs_photos_and_takes_the_budget(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fitted to photos"):
        optimize(tmp_path / "net.onnx", options=OptimizeOptions(int8=True))
    budget = OptimizeOptions(int8=True, max_shift=0.5, max_ap_drop=0.02)
    (chosen,) = parse_pipeline(quantizing(budget) or "")
    assert chosen == Quantize(max_shift=0.5, max_ap_drop=0.02)


def test_gates_stay_float(network: Network, normal: Normal) -> None:
    graph = network(
        "float[1,3,24,32] x",
        "float[1,19,24,32] y",
        "a = Conv(x, w0) m = GlobalAveragePool(a) g = Conv(m, w1) s = Sigmoid(g) b = Mul(a, s) "
        "y = Conv(b, w2)",
        w0=normal(8, 3, 1, 1),
        w1=normal(8, 8, 1, 1),
        w2=normal(19, 8, 1, 1),
    )
    result, outcome = quantised(graph)
    assert [(s.node, "one position" in s.reason) for s in outcome.skips] == [("g", True)]
    assert isinstance(maker(result, "g").inputs[1], gs.Constant)
    assert error(result, graph) < 0.1


@pytest.mark.parametrize(("opset", "op", "skipped"), [(12, "Relu", False), (12, "Softmax", True)])
def test_an_old_opset_is_raised_where_nothing_changes(
    network: Network, normal: Normal, opset: int, op: str, skipped: bool
) -> None:
    weight = normal(19, 3, 1, 1)
    text = f"a = Conv(x, w) y = {op}(a)"
    graph = network("float[1,3,24,32] x", "float[1,19,24,32] y", text, opset=opset, w=weight)
    result, outcome = quantised(graph)
    if skipped:
        assert result.opset == opset
        (skip,) = outcome.skips
        assert "opset_version=13" in skip.reason
    else:
        assert result.opset == 13
        assert outcome.changes


def test_what_is_quantised_is_left_alone(net: gs.Graph) -> None:
    result, _ = quantised(net)
    again, outcome = quantised(result)
    assert not outcome.changes
    assert outcome.skips[0].reason.startswith("the network is quantised already")
    assert [node.op for node in again.nodes] == [node.op for node in result.nodes]


def test_without_images_it_refuses(net: gs.Graph) -> None:
    (chosen,) = parse_pipeline("quantize")
    assert chosen.needs_images
    with pytest.raises(InputError, match="there are no images"):
        chosen.run(Graph.of(net).copy(), Context(net))
    assert not chosen.sweep(Graph.of(net).copy(), None).changes
