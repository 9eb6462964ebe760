"""Which passes find work in networks as they were published, and what it does to their cost."""

from __future__ import annotations

import onnx_graphsurgeon as gs
import pytest
from small_networks import MakeGraph, Normal

from graphopt.analysis.cost import cost_of
from graphopt.fitting.stack import blank_stack
from graphopt.optimizer.pass_contract import AnyPass, Context, Skip
from graphopt.passes import stack_large_conv
from graphopt.passes.replace_swish import ReplaceSwish
from graphopt.passes.stack_large_conv import StackLargeConv
from graphopt.passes.undilate_conv import UndilateConv
from graphopt.zoo.catalogue import build


def giga(graph: gs.Graph) -> float:
    """10^9 multiply-adds."""
    return cost_of(graph).macs / 1e9


# --- Lightweight OpenPose -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refinements", "before", "after"), [(0, 5.49, 5.49), (1, 8.88, 10.39), (3, 15.67, 20.20)]
)
def test_lightweight_openpose(
    lightweight_openpose: MakeGraph, refinements: int, before: float, after: float
) -> None:
    """At 368x368, as its layers were counted from the authors' own code."""
    graph = lightweight_openpose(refinements)
    assert giga(graph) == pytest.approx(before, abs=0.005)
    dilated = [n for n in graph.nodes if n.attrs.get("dilations", [1, 1]) == [2, 2]]
    assert [n.attrs.get("group", 1) for n in dilated] == [512] + [1] * 5 * refinements
    passes: tuple[AnyPass, ...] = (StackLargeConv(), ReplaceSwish())
    for chosen in passes:
        found = chosen.sites(graph, chosen.prepare(graph, Context()))
        assert all(isinstance(site, Skip) for site in found)
    outcome = UndilateConv(way="block").run(graph)
    # The blocks, and the one depthwise convolution in the backbone that is left.
    assert (len(outcome.changes), len(outcome.skips)) == (5 * refinements, 1)
    assert giga(graph) == pytest.approx(after, abs=0.005)


# --- OpenPose -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "before", "after"), [(1, 43.0, 43.0), (2, 61.6, 52.7), (6, 135.9, 91.6)]
)
def test_openpose(
    monkeypatch: pytest.MonkeyPatch, stages: int, before: float, after: float
) -> None:
    """Ten 7x7 in each stage after the first; 52.3 M parameters become 31.4 M."""
    # The graph's form is what counts here, not how well the weights are fitted.
    monkeypatch.setattr(
        stack_large_conv,
        "fit_stack",
        lambda kernel, depth, width, **_: blank_stack(kernel, depth, width),
    )
    graph = build("openpose", seed=None, options={"stages": stages})
    assert giga(graph) == pytest.approx(before, abs=0.05)
    params = cost_of(graph).params
    outcome = StackLargeConv(max_residual=2, padding="each").run(graph)
    assert (len(outcome.changes), len(outcome.skips)) == (10 * (stages - 1), 0)
    assert giga(graph) == pytest.approx(after, abs=0.05)
    if stages == 6:
        assert params == pytest.approx(52.3e6, abs=5e4)
        assert cost_of(graph).params == pytest.approx(31.4e6, abs=5e4)


# --- EfficientHRNet's backbone ------------------------------------------------------------------


def test_efficientnet_blocks(network: MakeGraph, normal: Normal) -> None:
    """Each block's three Swish go; the gate of squeeze-and-excitation stays."""
    body, tensor = ["s = Conv(x, w) g = Sigmoid(s) t = Mul(s, g)"], "t"
    for b in "abcd":
        body.append(
            f"{b}1 = Conv({tensor}, e) {b}2 = Sigmoid({b}1) {b}3 = Mul({b}1, {b}2)"
            f" {b}4 = Conv<group=8, pads=[1,1,1,1]>({b}3, d) {b}5 = Sigmoid({b}4)"
            f" {b}6 = Mul({b}4, {b}5) {b}7 = GlobalAveragePool({b}6) {b}8 = Conv({b}7, q)"
            f" {b}9 = Sigmoid({b}8) {b}10 = Mul({b}8, {b}9) {b}11 = Conv({b}10, u)"
            f" {b}12 = Sigmoid({b}11) {b}13 = Mul({b}6, {b}12) {b}14 = Conv({b}13, p)"
            f" {b}15 = Add({tensor}, {b}14)"
        )
        tensor = f"{b}15"
    weights = {
        "w": (4, 3, 1, 1),
        "e": (8, 4, 1, 1),
        "d": (8, 1, 3, 3),
        "q": (2, 8, 1, 1),
        "u": (8, 2, 1, 1),
        "p": (4, 8, 1, 1),
    }
    graph = network(
        "float[1,3,16,16] x",
        "float[1,4,16,16] y",
        " ".join([*body, f"y = Identity({tensor})"]),
        **{name: normal(*shape) for name, shape in weights.items()},
    )
    before = cost_of(graph).macs
    outcome = ReplaceSwish().run(graph)
    assert (len(outcome.changes), len(outcome.skips)) == (1 + 3 * 4, 4)
    assert {node.outputs[0].name for node in graph.nodes if node.op == "Sigmoid"} == {
        f"{b}12" for b in "abcd"
    }
    assert cost_of(graph).macs == before
