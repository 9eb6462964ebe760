"""The rules of `canonicalize`, one by one, and in any order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphopt.ir.graph import label
from graphopt.optimizer.manual import manual_of
from graphopt.optimizer.pass_contract import Change, Numerics, Outcome, Pass, Skip
from graphopt.optimizer.simplify.rule import GraphRule, NodeRule, Site, Sweep
from graphopt.optimizer.simplify.rules import LAST, NODE_RULES, RULES, simplifications
from graphopt.passes.canonicalize import Canonicalize

Rewrite = Callable[..., tuple[gs.Graph, Outcome]]
Build = Callable[..., gs.Graph]


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


WEIGHTS = {
    "nothing": ints(*[0] * 8),
    "around": ints(0, 0, 1, 1, 0, 0, 1, 1),
    "shape": ints(2, 4, 6, 8),
    "flat": ints(2, 192),
    "turned": ints(2, 4, 8, 6),
    "copied": ints(0, 4, -1, 8),
    "start": ints(0),
    "end": ints(2**31 - 1),
    "axis": ints(3),
    "zero": np.float32(0),
    "row": np.arange(8, dtype=np.float32),
    "column": np.arange(8, dtype=np.float32),
    "unit": np.ones(4, np.float32),
    "none": np.zeros(0, np.float32),
    "yes": np.bool_(True),
    "w": np.ones((3, 4, 3, 3), np.float32),
    "step": np.float32(0.02),
    "mid": np.uint8(128),
    "whole": np.full((3, 4, 3, 3), 3, np.int8),
    "nought": np.int8(0),
}
IF = """q = If(yes) <then_branch = t () => (float[2,4,6,8] p) { p = Neg(v) },
                    else_branch = e () => (float[2,4,6,8] r) { r = Exp(v) }> y = Abs(q)"""

CASES = {
    "quantised-operator": (
        """q = QuantizeLinear(v, step, mid) r = QLinearConv(q, step, mid, whole, step, nought, step,
           mid) y = DequantizeLinear(r, step, mid)""",
        "QuantizeLinear DequantizeLinear DequantizeLinear Conv QuantizeLinear DequantizeLinear",
    ),
    "constant-node": ("k = Constant<value_float=2.0>() y = Add(v, k)", "Add"),
    "decided-if": (IF, "Neg Abs"),
    "known-shape": ("s = Shape(v) y = Expand(v, s)", "Expand"),
    "constant-folding": ("k = Neg(row) y = Add(v, k)", "Add"),
    "identity": ("a = Identity(v) y = Neg(a)", "Neg"),
    "dropout": ("a = Dropout(v) y = Neg(a)", "Neg"),
    "same-cast": ("a = Cast<to=1>(v) y = Neg(a)", "Neg"),
    "single-operand": ("a = Concat<axis=1>(v) b = Max(a) y = Neg(b)", "Neg"),
    "single-part": ("a = Split<axis=1>(v) y = Neg(a)", "Neg"),
    "empty-pad": ("a = Pad(v, nothing) y = Neg(a)", "Neg"),
    "whole-slice": ("a = Slice(v, start, end, axis) y = Neg(a)", "Neg"),
    "same-shape": ("a = Reshape(v, flat) b = Reshape(a, shape) y = Neg(b)", "Neg"),
    "undone-reshape": ("a = Flatten(v) b = Reshape(a, turned) y = Neg(b)", "Reshape Neg"),
    "copied-shape": ("a = Reshape(d, copied) y = Neg(a)", "Neg"),
    "same-expand": ("a = Expand(v, shape) y = Neg(a)", "Neg"),
    "identity-transpose": ("a = Transpose<perm=[0,1,2,3]>(v) y = Neg(a)", "Neg"),
    "double-transpose": (
        "a = Transpose<perm=[0,2,3,1]>(v) b = Transpose<perm=[0,2,3,1]>(a) y = Neg(b)",
        "Transpose Neg",
    ),
    "single-element-pool": ("a = MaxPool<kernel_shape=[1,1]>(v) y = Neg(a)", "Neg"),
    "unit-resize": ("a = Resize(v, none, unit) y = Neg(a)", "Neg"),
    "neutral-operand": ("a = Add(zero, v) b = Sub(a, zero) y = Neg(b)", "Neg"),
    "needless-relu": ("a = Relu(v) y = Neg(a)", "Neg"),
    "explicit-pads": ('y = Conv<auto_pad="SAME_UPPER">(v, w)', "Conv"),
    "absorbed-pad": ("a = Pad(v, around) y = Conv(a, w)", "Conv"),
    "duplicate-node": ("a = Neg(v) b = Neg(v) y = Mul(a, b)", "Neg Mul"),
    "equal-initializers": ("a = Add(v, row) y = Mul(a, column)", "Add Mul"),
    "dead-node": ("a = Neg(v) y = Abs(v)", "Abs"),
}
"""For each rule a network that it finds something in, and the operators that it leaves."""


@dataclass(frozen=True)
class Some(Pass[Site]):
    """`canonicalize` with some of its rules, in an order."""

    name: ClassVar[str] = "some"
    numerics: ClassVar[Numerics] = Numerics.EXACT
    repeat: ClassVar[bool] = True
    nodes: Sequence[NodeRule]
    last: Sequence[GraphRule] = LAST

    def match(self, graph: gs.Graph) -> Iterator[Site | Skip]:
        return simplifications(Sweep(graph, 1 << 20), self.nodes, self.last)

    def rewrite(self, graph: gs.Graph, site: Site) -> Change:
        change = Change(label(site.node), site.summary)
        site.edit(graph)
        return change


@pytest.fixture
def case(network: Build) -> Build:
    """The network of a rule's case; `v` is what it starts from, or `d`, of partly unknown size."""

    def make(name: str) -> gs.Graph:
        inputs, body = "float[2,4,6,8] x", CASES[name][0]
        if "(d," in body:
            inputs = "float[N,4,H,8] d"
        else:
            body = f"v = Sigmoid(x) {body}"
        return network(inputs, "float[A,B,C,D] y", body, **WEIGHTS)

    return make


def test_names_are_unique_and_every_rule_has_a_line_and_a_case() -> None:
    names = [rule.name for rule in RULES]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert list(CASES) == names
    summaries = [rule.summary for rule in RULES]
    assert len(set(summaries)) == len(summaries)
    assert all(summary.strip().endswith(".") for summary in summaries)


def test_the_manual_page_has_a_line_for_each_rule() -> None:
    page = manual_of(Canonicalize)
    assert list(Canonicalize.rules) == [rule.name for rule in RULES]
    lines = "".join(f"    {rule.name}\n        {rule.summary}\n" for rule in RULES)
    assert f"\nRules:\n{lines}\nOptions:\n" in page


@pytest.mark.parametrize("name", CASES)
def test_each_rule_does_its_work_alone(name: str, case: Build, rewrite: Rewrite) -> None:
    graph = case(name)
    if name != "dead-node":
        assert rewrite(graph, Some((), ()), tolerance=0)[1].changes == ()
    nodes = [rule for rule in NODE_RULES if rule.name == name]
    last = [rule for rule in LAST if rule.name == name]
    changed, outcome = rewrite(graph, Some(nodes, last), tolerance=1e-6)
    assert [node.op for node in changed.nodes if node.op != "Sigmoid"] == CASES[name][1].split()
    assert outcome.changes
    assert outcome.skips == ()


def to_text(graph: gs.Graph) -> str:
    """Operators, what they read, and their attributes."""
    return "\n".join(
        f"{node.op} {[tensor.name for tensor in node.inputs]} {dict(node.attrs)}"
        for node in graph.nodes
    )


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_rules_makes_no_difference(name: str, case: Build) -> None:
    expected = case(name)
    Canonicalize().run(expected)
    for seed in range(4):
        nodes, graph = list(NODE_RULES), case(name)
        random.Random(seed).shuffle(nodes)
        Some(nodes).run(graph)
        assert to_text(graph) == to_text(expected)
