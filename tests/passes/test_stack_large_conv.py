"""`stack-large-conv`: stacks of 3x3 that come close to large kernels, and cost less."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known import known, values_of
from small_networks import MakeGraph, Normal, Ops

from graphopt.analysis.cost import cost_of
from graphopt.analysis.latency.device import load_device
from graphopt.errors import InputError
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.stack import compose, fit_stack, product
from graphopt.ir.edit import emit
from graphopt.ir.onnx_io import to_proto
from graphopt.ir.shape_inference import infer_shapes
from graphopt.optimizer.pass_contract import Context
from graphopt.optimizer.syntax import parse_pipeline
from graphopt.passes import stack_large_conv, undilate_conv
from graphopt.passes.stack_large_conv import StackLargeConv
from graphopt.runtime.differences import difference
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.synthetic_images import natural_noise


def run(graph: gs.Graph, x: np.ndarray) -> np.ndarray:
    return OnnxRuntimeEngine(to_proto(graph).SerializeToString(), threads=1).run({"x": x})["y"]


def of_stack(rng: np.random.Generator, *widths: int, group: int = 1) -> np.ndarray:
    """A kernel that is a product of 3x3 kernels, as a weight of ONNX."""
    factors = [
        rng.standard_normal((group, b // group, a // group, 3, 3)) for a, b in pairwise(widths)
    ]
    kernel = product(factors)
    return np.asarray((kernel / kernel.std()).reshape(-1, *kernel.shape[2:]), np.float32)


# --- weights ------------------------------------------------------------------------------------


def test_a_product_is_what_two_convolutions_do(network: MakeGraph, normal: Normal) -> None:
    first, second = normal(6, 2, 3, 3), normal(8, 3, 5, 5)
    graph = network(
        "float[1,4,12,12] x",
        "float[1,8,6,6] y",
        "h = Conv<group=2>(x, first) y = Conv<group=2>(h, second)",
        first=first,
        second=second,
    )
    kernel = compose(
        second.reshape(2, 4, 3, 5, 5).astype(float), first.reshape(2, 3, 2, 3, 3).astype(float)
    )
    one = network(
        "float[1,4,12,12] x",
        "float[1,8,6,6] y",
        "y = Conv<group=2>(x, w)",
        w=kernel.reshape(8, 2, 7, 7).astype(np.float32),
    )
    x = normal(1, 4, 12, 12)
    assert difference(run(one, x), run(graph, x)) < 1e-5


def test_two_factors_are_found_again() -> None:
    rng = np.random.default_rng(3)
    dense = product([rng.standard_normal((1, 4, 4, 3, 3)) for _ in range(2)])
    depthwise = product([rng.standard_normal((6, 1, 1, 3, 3)) for _ in range(2)])
    assert fit_stack(dense, 2, 4).residual < 0.15
    assert fit_stack(depthwise, 2, 1).residual < 0.1


def test_the_residual_is_that_of_the_product() -> None:
    kernel = np.random.default_rng(0).standard_normal((1, 3, 3, 5, 5))
    stack = fit_stack(kernel, 2, 3)
    lost = np.linalg.norm(kernel - product(stack.factors)) / np.linalg.norm(kernel)
    assert stack.residual == pytest.approx(lost, rel=1e-6)
    assert 0 < stack.residual < 1
    again = fit_stack(kernel, 2, 3)
    assert all(np.array_equal(a, b) for a, b in zip(stack.factors, again.factors, strict=True))


def test_a_metric_shifts_the_error_to_where_it_does_not_count() -> None:
    kernel = np.random.default_rng(0).standard_normal((4, 1, 1, 5, 5))
    counts = np.ones((5, 5))
    counts[2] = 100.0
    stack = fit_stack(kernel, 2, 1, metric=np.tile(np.diag(counts.ravel()), (4, 1, 1)))
    plain = fit_stack(kernel, 2, 1)
    row = [np.abs(kernel - product(s.factors))[..., 2, :].sum() for s in (stack, plain)]
    assert row[0] < 0.5 * row[1]


# --- graphs -------------------------------------------------------------------------------------

FORMS = {
    # kernel, group, attributes, height and width out
    "7x7": (7, 1, "pads=[3, 3, 3, 3]", (12, 14)),
    "5x5": (5, 1, "pads=[2, 2, 2, 2]", (12, 14)),
    "9x9": (9, 1, "pads=[4, 4, 4, 4]", (12, 14)),
    "11x11": (11, 1, "pads=[5, 5, 5, 5]", (12, 14)),
    "depthwise": (7, 4, "group=4, pads=[3, 3, 3, 3]", (12, 14)),
    "grouped": (5, 2, "group=2, pads=[2, 2, 2, 2]", (12, 14)),
    "odd pads": (5, 1, "pads=[0, 1, 4, 2]", (12, 13)),
    "no pads": (5, 1, "pads=[0, 0, 0, 0]", (8, 10)),
    "stride": (7, 1, "pads=[3, 3, 3, 3], strides=[1, 2]", (12, 7)),
    "auto_pad": (5, 1, 'auto_pad="SAME_UPPER"', (12, 14)),
}


@pytest.mark.parametrize(("size", "group", "attrs", "out"), FORMS.values(), ids=FORMS)
def test_a_kernel_that_is_a_stack(
    network: MakeGraph, normal: Normal, size: int, group: int, attrs: str, out: tuple[int, int]
) -> None:
    """Then the output is nearly what it was, at the border too."""
    depth = size // 2
    # Few channels inside, so that the fit has something to spare.
    inner = 4 if group > 1 else 2
    weight = of_stack(np.random.default_rng(1), 4, *[inner] * (depth - 1), 4, group=group)
    graph = network(
        "float[1,4,12,14] x",
        f"float[1,4,{out[0]},{out[1]}] y",
        f"y = Conv<{attrs}>(x, w, b)",
        w=weight,
        b=normal(4),
    )
    stacked = graph.copy()
    outcome = StackLargeConv(max_residual=0.4).run(stacked)
    (change,) = outcome.changes
    assert change.node == "y"
    onnx.checker.check_model(to_proto(stacked), full_check=True)
    assert [tuple(n.inputs[1].shape[2:]) for n in stacked.nodes] == [(3, 3)] * depth
    lost = float(change.summary.split(", ")[1].split()[0])
    x = normal(1, 4, 12, 14)
    before, after = run(graph, x), run(stacked, x)
    error = np.linalg.norm(after - before) / np.linalg.norm(before - normal(4).mean())
    assert error < 2 * lost + 0.01


SKIPPED = {
    "a stem": ("y = Conv<strides=[2, 2], pads=[3, 3, 3, 3]>(x, stem)", "multiply-adds"),
    "a stem at full size": ("y = Conv<pads=[3, 3, 3, 3]>(x, stem)", "multiply-adds"),
    "no square": ("y = Conv<pads=[3, 0, 3, 0]>(x, long)", "7x1"),
    "even": ("y = Conv<pads=[3, 3, 2, 2]>(x, even)", "6x6"),
    "dilated": ("y = Conv<pads=[4, 4, 4, 4], dilations=[2, 2]>(x, five)", "undilate-conv"),
    "not constant": ("v = Abs(five) y = Conv<pads=[2, 2, 2, 2]>(x, v)", "not constant"),
    "random weights": ("y = Conv<pads=[2, 2, 2, 2]>(x, five)", "would leave 0."),
}


@pytest.mark.parametrize(("body", "reason"), SKIPPED.values(), ids=SKIPPED)
def test_skips(network: MakeGraph, normal: Normal, ops: Ops, body: str, reason: str) -> None:
    weights = {"stem": normal(16, 3, 7, 7), "long": normal(3, 3, 7, 1), "even": normal(3, 3, 6, 6)}
    graph = network(
        "float[1,3,16,16] x", "float[n,c,h,k] y", body, five=normal(3, 3, 5, 5), **weights
    )
    before = ops(graph)
    outcome = StackLargeConv(max_residual=0.1).run(graph)
    assert not outcome.changes
    assert reason in outcome.skips[0].reason
    assert ops(graph) == before


def test_small_kernels_are_no_sites(network: MakeGraph, normal: Normal) -> None:
    graph = network("float[1,3,8,8] x", "float[1,3,6,6] y", "y = Conv(x, w)", w=normal(3, 3, 3, 3))
    outcome = StackLargeConv().run(graph)
    assert not outcome.changes
    assert not outcome.skips


def test_depthwise_5x5_costs_less_too(network: MakeGraph, normal: Normal) -> None:
    graph = network(
        "float[1,8,8,8] x", "float[1,8,4,4] y", "y = Conv<group=8>(x, w)", w=normal(8, 1, 5, 5)
    )
    StackLargeConv(max_residual=1).run(graph)
    assert cost_of(graph).params == 8 * 18


def test_width_and_activations_between(network: MakeGraph, normal: Normal, ops: Ops) -> None:
    graph = network(
        "float[1,4,8,8] x",
        "float[1,4,8,8] y",
        "h = Conv<pads=[2, 2, 2, 2]>(x, w) y = Clip(h, low, high)",
        w=normal(4, 4, 5, 5),
        low=np.float32(0),
        high=np.float32(6),
    )
    text = "stack-large-conv{activation=between, width=3, max_residual=1, padding=each}"
    (chosen,) = parse_pipeline(text)
    chosen.run(graph)
    assert ops(graph) == ["Conv", "Clip", "Conv", "Clip"]
    first, inner, second, _ = graph.nodes
    assert first.inputs[1].shape == (3, 4, 3, 3)
    assert second.inputs[1].shape == (4, 3, 3, 3)
    assert [float(values_of(t)) for t in inner.inputs[1:]] == [0, 6]
    assert first.attrs["pads"] == second.attrs["pads"] == [1, 1, 1, 1]
    assert second.outputs[0].name == "h"
    with pytest.raises(InputError, match="width"):
        parse_pipeline("stack-large-conv{width=-1}")


class Images:
    """A calibration of smooth images, without the files."""

    fitting = held_out = range(12)

    def feeds(self, images: Iterable[int]) -> Iterator[dict[str, np.ndarray]]:
        for seed in images:
            rng = np.random.default_rng(seed)
            # Far from zero: what is lost of the kernel would shift the output.
            yield {"x": (natural_noise((1, 6, 24, 24), rng) + 3).astype(np.float32)}


def test_images_tell_which_errors_do_not_show(network: MakeGraph, normal: Normal) -> None:
    graph = network(
        "float[1,6,24,24] x",
        "float[1,6,24,24] y",
        "r = Relu(x) h = Conv<pads=[3, 3, 3, 3], group=6>(r, w) y = Relu(h)",
        w=normal(6, 1, 7, 7) + np.float32(0.2),
    )
    blind, informed = graph.copy(), graph.copy()
    StackLargeConv(max_residual=1).run(blind)
    outcome = StackLargeConv(max_residual=1).run(
        informed, Context(calibration=cast(Calibration, Images()))
    )
    assert "of the output's deviation" in outcome.changes[0].summary
    rng = np.random.default_rng(100)
    x = (natural_noise((1, 6, 24, 24), rng) + 3).astype(np.float32)
    errors = [np.abs(run(changed, x) - run(graph, x)).mean() for changed in (blind, informed)]
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize(("device", "changes"), [("adreno-640", 1), ("mali-g76-mp12", 0)])
def test_stacks_only_where_the_device_is_faster_with_them(
    network: MakeGraph, normal: Normal, device: str, changes: int
) -> None:
    """Where plain 3x3 have a faster algorithm than 7x7; elsewhere three launches cost more."""
    graph = network(
        "float[1,16,46,46] x",
        "float[1,16,46,46] y",
        "y = Conv<pads=[3, 3, 3, 3]>(x, w)",
        w=normal(16, 16, 7, 7),
    )
    context = Context(device=load_device(device))
    outcome = StackLargeConv(max_residual=2, width=16).run(graph, context)
    assert len(outcome.changes) == changes
    assert [device in skip.reason for skip in outcome.skips] == [True] * (1 - changes)


@st.composite
def convolutions(draw: st.DrawFn) -> gs.Graph:
    """One convolution of any form."""
    group = draw(st.sampled_from([1, 2, 4]))
    kernel = [draw(st.integers(1, 7)) for _ in range(2)]
    if draw(st.booleans()):
        kernel[1] = kernel[0]
    attrs: dict[str, Any] = {
        "group": group,
        "strides": [draw(st.integers(1, 2)) for _ in range(2)],
        "dilations": [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(2)],
    }
    if draw(st.booleans()):
        attrs["pads"] = [draw(st.integers(0, 4)) for _ in range(4)]
    x = gs.Variable("x", np.dtype(np.float32), [draw(st.sampled_from([1, 2])), 4, 24, 26])
    graph = gs.Graph(inputs=[x], opset=draw(st.sampled_from([11, 13, 17, 21])), ir_version=8)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    weight = rng.standard_normal((8, 4 // group, *kernel)).astype(np.float32)
    bias = rng.standard_normal(8).astype(np.float32) if draw(st.booleans()) else None
    graph.outputs = [emit(graph, "Conv", x, weight, bias, out="y", **attrs)]
    graph.outputs[0].shape = list(known(infer_shapes(graph)["y"][1]))
    return graph


@settings(max_examples=30, deadline=None)
@given(convolutions(), st.sampled_from(["stack-large-conv", "undilate-conv{way=stacked}"]))
def test_any_convolution_keeps_its_output_shape(graph: gs.Graph, text: str) -> None:
    chosen: Any = parse_pipeline(text)[0]
    stacked = graph.copy()
    with (
        patch.object(stack_large_conv, "fit_stack", partial(fit_stack, steps=1)),
        patch.object(undilate_conv, "fit_stack", partial(fit_stack, steps=1)),
    ):
        outcome = replace(chosen, max_residual=9).run(stacked)
    assert len(outcome.changes) + len(outcome.skips) <= 1
    onnx.checker.check_model(to_proto(stacked), full_check=True)
    x = np.random.default_rng(0).standard_normal(graph.inputs[0].shape).astype(np.float32)
    assert run(stacked, x).shape == run(graph, x).shape
    if outcome.changes:
        assert {tuple(n.inputs[1].shape[2:]) for n in stacked.nodes} == {(3, 3)}
