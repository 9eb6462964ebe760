"""Which passes find work in networks as they were published, and what these cost."""

from __future__ import annotations

import pytest

from graphopt.cost import cost_of
from graphopt.passbase import Skip
from graphopt.passes.replace_swish import ReplaceSwish
from graphopt.passes.stack_large_conv import StackLargeConv


@pytest.mark.parametrize(("refinements", "macs"), [(0, 5.49), (1, 8.88), (3, 15.67)])
def test_lightweight_openpose(lightweight_openpose, refinements, macs):
    """In 10^9 multiply-adds at 368x368, as its layers were counted from the authors' own code."""
    graph = lightweight_openpose(refinements)
    assert round(cost_of(graph).macs / 1e9, 2) == macs
    dilated = [n for n in graph.nodes if n.attrs.get("dilations", [1, 1]) == [2, 2]]
    assert [n.attrs.get("group", 1) for n in dilated] == [512] + [1] * 5 * refinements
    for chosen in (StackLargeConv(), ReplaceSwish()):
        assert all(isinstance(found, Skip) for found in chosen.match(graph))
