"""`fold-batchnorm`: what goes in, and above all what must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
from known import values_of
from small_networks import MakeGraph, Normal, Ops, Rewrite

from graphopt.passes.fold_batchnorm import FoldBatchNorm

BN = "BatchNormalization({}, gamma, beta, mean, var)"

Stats: TypeAlias = Callable[[int], dict[str, np.ndarray]]


@pytest.fixture
def stats(normal: Normal) -> Stats:
    def make(channels: int) -> dict[str, np.ndarray]:
        return {
            "gamma": normal(channels),
            "beta": normal(channels),
            "mean": normal(channels),
            "var": np.abs(normal(channels)) + 0.1,
        }

    return make


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize(
    ("conv", "weight", "bias"),
    [
        ("Conv<pads=[1,1,1,1]>(x, w)", (6, 4, 3, 3), None),
        ("Conv<pads=[1,1,1,1]>(x, w, b)", (6, 4, 3, 3), 6),
        ("Conv<group=2>(x, w, b)", (6, 2, 3, 3), 6),
        ("Conv<group=4>(x, w)", (4, 1, 3, 3), None),
        ('Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)', (6, 4, 3, 3), None),
        ("ConvTranspose<strides=[2,2]>(x, w, b)", (4, 6, 2, 2), 6),
        ("ConvTranspose<group=2, output_padding=[1,1], strides=[2,2]>(x, w)", (4, 3, 2, 2), None),
    ],
)
def test_after_a_convolution(
    network: MakeGraph,
    rewrite: Rewrite,
    ops: Ops,
    normal: Normal,
    stats: Stats,
    conv: str,
    weight: tuple[int, int, int, int],
    bias: int | None,
    opset: int,
) -> None:
    channels = bias or (4 if "group=4" in conv else 6)
    constants = {"w": normal(*weight), **stats(channels)}
    if bias:
        constants["b"] = normal(bias)
    graph = network(
        "float[1,4,7,9] x",
        f"float[1,{channels},H,W] y",
        f"c = {conv} y = {BN.format('c')}",
        opset=opset,
        **constants,
    )
    folded, outcome = rewrite(graph, FoldBatchNorm())
    assert len(ops(folded)) == len(outcome.changes) == 1
    assert folded.nodes[0].outputs[0].name == "y"


@pytest.mark.parametrize("attrs", ["", "<transB=1, alpha=0.5, beta=2.0>"])
def test_after_and_before_a_gemm(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal, stats: Stats, attrs: str
) -> None:
    shape = (5, 4) if "transB" in attrs else (4, 5)
    graph = network(
        "float[2,4] x",
        "float[2,5] y",
        f"m = Mul(x, k) g = Gemm{attrs}(m, w, b) y = {BN.format('g')}",
        w=normal(*shape),
        b=normal(1, 5),
        k=normal(4),
        **stats(5),
    )
    folded, outcome = rewrite(graph, FoldBatchNorm())
    # The constant of Mul lies along the last axis, which for a matrix is the channel axis.
    assert ops(folded) == ["Gemm"]
    assert len(outcome.changes) == 2


def test_a_shift_before_a_gemm_with_a_factor(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal
) -> None:
    graph = network(
        "float[2,4] x",
        "float[2,5] y",
        "a = Add(x, k) y = Gemm<alpha=0.5>(a, w)",
        w=normal(4, 5),
        k=normal(4),
    )
    assert ops(rewrite(graph, FoldBatchNorm())[0]) == ["Gemm"]


def test_a_chain_of_arithmetic_goes_in(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal
) -> None:
    graph = network(
        "float[1,3,8,8] x",
        "float[1,4,6,6] y",
        "c = Conv(x, w) m = Mul(k, c) a = Add(m, s) d = Div(a, k) e = Sub(s, d) y = Sub(e, two)",
        w=normal(4, 3, 3, 3),
        k=np.abs(normal(1, 4, 1, 1)) + 1,
        s=normal(4, 1, 1),
        two=np.float32(2),
    )
    folded, outcome = rewrite(graph, FoldBatchNorm())
    assert ops(folded) == ["Conv"]
    assert len(outcome.changes) == 5


def test_before_a_convolution_without_padding(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal, stats: Stats
) -> None:
    graph = network(
        "float[1,4,8,8] x",
        "float[1,6,6,6] y",
        f"n = {BN.format('x')} y = Conv<group=2>(n, w, b)",
        w=normal(6, 2, 3, 3),
        b=normal(6),
        **stats(4),
    )
    folded, _ = rewrite(graph, FoldBatchNorm())
    assert ops(folded) == ["Conv"]


def test_before_a_padded_convolution_only_a_scale(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal
) -> None:
    body = "n = {}(x, k) y = Conv<pads=[1,1,1,1]>(n, w)"
    args = ("float[1,4,8,8] x", "float[1,6,8,8] y")
    constants = {"w": normal(6, 4, 3, 3), "k": normal(1, 4, 1, 1)}
    scaled, _ = rewrite(network(*args, body.format("Mul"), **constants), FoldBatchNorm())
    assert ops(scaled) == ["Conv"]
    shifted, outcome = rewrite(network(*args, body.format("Add"), **constants), FoldBatchNorm())
    assert ops(shifted) == ["Add", "Conv"]
    assert "pads with zeros" in outcome.skips[0].reason


def test_a_scale_before_a_transposed_convolution(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal
) -> None:
    graph = network(
        "float[1,4,5,5] x",
        "float[1,6,H,W] y",
        "n = Mul(x, k) y = ConvTranspose<group=2, strides=[2,2]>(n, w)",
        w=normal(4, 3, 2, 2),
        k=normal(4, 1, 1),
    )
    assert ops(rewrite(graph, FoldBatchNorm())[0]) == ["ConvTranspose"]


def test_shared_weights_are_copied(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal, stats: Stats
) -> None:
    graph = network(
        "float[1,4,8,8] x",
        "float[1,4,6,6] y, float[1,4,6,6] z",
        f"c = Conv(x, w, b) y = {BN.format('c')} d = Mul(x, x) z = Conv(d, w, b)",
        w=normal(4, 4, 3, 3),
        b=normal(4),
        **stats(4),
    )
    original = values_of(graph.tensors()["w"]).copy()
    folded, _ = rewrite(graph, FoldBatchNorm())
    assert "BatchNormalization" not in ops(folded)
    assert np.array_equal(values_of(folded.tensors()["w"]), original)
    assert np.array_equal(values_of(graph.tensors()["w"]), original)


@pytest.mark.parametrize(
    ("outputs", "body", "reason"),
    [
        # The convolution's own output is an output of the network, or read by others.
        ("float[1,4,6,6] y, float[1,4,6,6] c", f"c = Conv(x, w) y = {BN.format('c')}", "others"),
        (
            "float[1,4,6,6] y",
            f"c = Conv(x, w) n = {BN.format('c')} y = Add(c, n)",
            "others read the output",
        ),
        ("float[1,4,8,8] y", f"r = Relu(x) y = {BN.format('r')}", "comes from Relu"),
        ("float[1,4,6,6] y", f"v = Mul(w, one) c = Conv(x, v) y = {BN.format('c')}", "constant"),
        (
            "float[1,4,6,6] y",
            "c = Conv(x, w) y = BatchNormalization(c, gamma, beta, mean, over)",
            "not constant",
        ),
    ],
)
def test_left_alone(
    network: MakeGraph,
    rewrite: Rewrite,
    ops: Ops,
    normal: Normal,
    stats: Stats,
    outputs: str,
    body: str,
    reason: str,
) -> None:
    constants = {"w": normal(4, 4, 3, 3), "one": np.float32(1), **stats(4)}
    graph = network("float[1,4,8,8] x, float[4] over", outputs, body, **constants)
    folded, outcome = rewrite(graph, FoldBatchNorm(), tolerance=float("inf"))
    assert ops(folded) == ops(graph)
    assert reason in outcome.skips[0].reason


def test_training_mode_is_left_alone(network: MakeGraph, normal: Normal, stats: Stats) -> None:
    graph = network(
        "float[1,4,8,8] x",
        "float[1,4,6,6] y",
        "c = Conv(x, w) y, m2, v2 = BatchNormalization<training_mode=1>(c, gamma, beta, mean, var)",
        w=normal(4, 4, 3, 3),
        **stats(4),
    )
    outcome = FoldBatchNorm().run(graph)
    assert [skip.reason for skip in outcome.skips] == ["it is in training mode"]


@pytest.mark.parametrize(
    ("shape", "constant"),
    [
        ((4,), "along the width, not the channels"),
        ((1, 1, 6, 6), "one value a position"),
        ((1, 1, 1, 1, 1), "one more dimension"),
    ],
)
def test_constants_that_are_not_per_channel(
    network: MakeGraph,
    rewrite: Rewrite,
    ops: Ops,
    normal: Normal,
    shape: tuple[int, ...],
    constant: str,
) -> None:
    width = 4 if shape == (4,) else 6
    graph = network(
        f"float[1,4,{width + 2},{width + 2}] x",
        "float[A,B,C,D,E] y" if len(shape) == 5 else f"float[1,4,{width},{width}] y",
        "c = Conv(x, w) y = Add(c, k)",
        w=normal(4, 4, 3, 3),
        k=normal(*shape),
    )
    assert ops(rewrite(graph, FoldBatchNorm())[0]) == ["Conv", "Add"], constant


def test_one_channel_spread_over_several_is_left_alone(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal
) -> None:
    """A grey image minus a mean for each colour has three channels."""
    graph = network(
        "float[1,1,8,8] x",
        "float[1,4,6,6] y",
        "n = Mul(x, k) y = Conv(n, w)",
        k=normal(1, 3, 1, 1),
        w=normal(4, 3, 3, 3),
    )
    assert ops(rewrite(graph, FoldBatchNorm())[0]) == ["Mul", "Conv"]


def test_half_precision_that_would_overflow_is_left_alone(
    network: MakeGraph, ops: Ops, normal: Normal
) -> None:
    graph = network(
        "float16[1,3,8,8] x",
        "float16[1,4,6,6] y",
        "c = Conv(x, w) y = Mul(c, k)",
        w=1000 * np.ones((4, 3, 3, 3), np.float16),
        k=np.full((1, 4, 1, 1), 100, np.float16),
    )
    outcome = FoldBatchNorm().run(graph)
    assert outcome.skips[0].reason == "a folded weight overflows float16"
    assert ops(graph) == ["Conv", "Mul"]


COARSE = {
    "Conv": ("c = Conv(x, w)", (4, 3, 3, 3), "float16[1,4,6,6] y", (1, 4, 1, 1)),
    "ConvTranspose": (
        "c = ConvTranspose(x, w)",
        (3, 4, 3, 3),
        "float16[1,4,10,10] y",
        (1, 4, 1, 1),
    ),
    "Gemm": ("f = Flatten(x) c = Gemm(f, w)", (192, 4), "float16[1,4] y", (1, 4)),
    "Gemm, transposed": (
        "f = Flatten(x) c = Gemm<transB=1>(f, w)",
        (4, 192),
        "float16[1,4] y",
        (1, 4),
    ),
}


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize(("layer", "shape", "outputs", "per_channel"), COARSE.values(), ids=COARSE)
def test_half_precision_that_would_lose_digits_is_left_alone(
    network: MakeGraph,
    ops: Ops,
    normal: Normal,
    layer: str,
    shape: tuple[int, ...],
    outputs: str,
    per_channel: tuple[int, ...],
    small: bool,
) -> None:
    """One channel's weights would be subnormal numbers: they have a few bits left."""
    scale = np.ones(per_channel, np.float16)
    scale.flat[2] = 1e-5 if small else 1e-1
    graph = network(
        "float16[1,3,8,8] x",
        outputs,
        f"{layer} y = Mul(c, k)",
        w=(0.1 * normal(*shape)).astype(np.float16),
        k=scale,
    )
    outcome = FoldBatchNorm().run(graph)
    reasons = [skip.reason for skip in outcome.skips]
    assert reasons == (["folded weights are too small for float16"] if small else [])
    assert ("Mul" in ops(graph)) == small


def test_a_second_run_changes_nothing(
    network: MakeGraph, rewrite: Rewrite, normal: Normal, stats: Stats
) -> None:
    graph = network(
        "float[1,4,8,8] x",
        "float[1,4,6,6] y",
        f"c = Conv(x, w) y = {BN.format('c')}",
        w=normal(4, 4, 3, 3),
        **stats(4),
    )
    folded, _ = rewrite(graph, FoldBatchNorm())
    assert not FoldBatchNorm().run(folded).changes
