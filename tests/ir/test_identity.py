"""Sets and maps of nodes and tensors: twins stay apart, and the order is that of filling."""

from __future__ import annotations

import gc

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphopt.ir.identity import IdentityMap, IdentitySet


@pytest.fixture
def twins() -> tuple[gs.Variable, gs.Variable]:
    """Two tensors that onnx_graphsurgeon calls equal."""
    a, b = (gs.Variable("x", np.dtype(np.float32)) for _ in range(2))
    assert a == b
    return a, b


def test_twins_are_two_in_a_set(twins: tuple[gs.Variable, gs.Variable]) -> None:
    a, b = twins
    some = IdentitySet([a, a])
    assert len(some) == 1
    assert a in some
    assert b not in some
    some.add(b)
    assert [t is a for t in some] == [True, False]
    some.discard(a)
    some.discard(a)
    assert some == IdentitySet([b]) != IdentitySet([a])


def test_sets_are_joined_and_taken_from_each_other(twins: tuple[gs.Variable, gs.Variable]) -> None:
    first, second = (IdentitySet([t]) for t in twins)
    both = first | second
    assert list(map(id, both)) == list(map(id, twins))
    assert both - first == second
    assert both & first == first
    assert not first & second
    assert first <= both
    assert not both <= first
    assert len(first) == 1


def test_twins_have_a_value_each_in_a_map(twins: tuple[gs.Variable, gs.Variable]) -> None:
    a, b = twins
    values = IdentityMap([(b, 1)])
    assert values.get(a) is None
    values[a] = 2
    values[b] = 3
    assert [(t is a, value) for t, value in values.items()] == [(False, 3), (True, 2)]
    assert values == IdentityMap([(a, 2), (b, 3)]) != IdentityMap([(a, 3), (b, 2)])
    del values[b]
    assert b not in values
    with pytest.raises(KeyError):
        values[b]


def test_what_is_held_lives_so_that_nothing_takes_its_place() -> None:
    held, mapped = IdentitySet[gs.Variable](), IdentityMap[gs.Variable, int]()
    for number in range(100):
        held.add(gs.Variable(f"{number}"))
        mapped[gs.Variable(f"{number}")] = number
    gc.collect()
    assert [t.name for t in held] == [t.name for t in mapped] == [str(n) for n in range(100)]
