"""Which candidates none beats, what a smaller photo would keep instead, and what wishes take."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import GraphoptError
from graphopt.search.frontier import (
    Point,
    Rejected,
    Wish,
    beaten_by,
    below_the_line,
    frontier,
    levers,
    plain_quality,
)


def _point(ms: float, quality: float, *, plain: bool = True) -> Point:
    return Point(
        height=368,
        precision="float32",
        pipeline="exact",
        ms=ms,
        self_ap=quality,
        ap=None,
        plain=plain,
        command="",
    )


POINTS = st.lists(
    st.builds(
        _point,
        st.integers(1, 20).map(float),
        st.integers(0, 10).map(lambda tenths: tenths / 10),
    ),
    min_size=1,
)


@given(POINTS)
def test_none_of_a_frontier_is_beaten_and_all_others_are(points: list[Point]) -> None:
    best = frontier(points)
    assert best
    for point in points:
        assert (beaten_by(point, best) is None) == (point in best)
    for slower, faster in pairwise(best):
        assert slower.ms > faster.ms or slower == faster
        assert slower.quality > faster.quality or slower == faster


@given(POINTS)
def test_a_frontiers_points_lie_on_the_line_through_them(points: list[Point]) -> None:
    for point in frontier(points):
        assert plain_quality(point.ms, points) == pytest.approx(point.quality)


def test_a_smaller_photo_instead() -> None:
    line = [_point(100, 0.5), _point(50, 0.4), _point(60, 0.3), _point(20, 0.1)]
    assert plain_quality(75, line) == pytest.approx(0.45)
    assert plain_quality(35, line) == pytest.approx(0.25)
    assert plain_quality(200, line) == 0.5
    assert plain_quality(10, line) is None
    assert plain_quality(10, []) is None


def test_wishes() -> None:
    whole = _point(100, 0.5)
    points = [whole, _point(60, 0.495), _point(40, 0.48), _point(20, 0.3)]
    assert Wish.read("max-ap-drop=0.01").best(points, whole).ms == 60
    assert Wish.read("max-ap-drop=0.02").best(points, whole).ms == 40
    assert Wish.read("speedup=2").best(points, whole).ms == 40
    assert Wish.read("latency-ms=60").best(points, whole).ms == 60
    with pytest.raises(GraphoptError, match=r"takes 20\.0 ms"):
        Wish.read("latency-ms=10").best(points, whole)
    with pytest.raises(GraphoptError, match=r"loses 0\.005"):
        Wish.read("max-ap-drop=0.001").best(points[1:], whole)


def test_several_wishes_at_once() -> None:
    whole = _point(100, 0.5)
    points = [whole, _point(60, 0.495), _point(40, 0.48), _point(20, 0.3)]
    wish = Wish.read("speedup=2, max-ap-drop=0.05")
    assert str(wish) == "speedup=2,max-ap-drop=0.05"
    assert wish.best(points, whole).ms == 40
    assert Wish.read("latency-ms=70,speedup=2").most_ms(100) == 50
    with pytest.raises(GraphoptError, match=r"none that takes at most 50\.0 ms loses .* 40\.0 ms"):
        Wish.read("speedup=2,max-ap-drop=0.01").best(points, whole)


def test_what_is_below_the_line() -> None:
    plain = [_point(100, 0.5), _point(50, 0.4)]
    assert below_the_line(_point(75, 0.44, plain=False), plain) == pytest.approx(0.45)
    assert below_the_line(_point(75, 0.46, plain=False), plain) is None
    assert below_the_line(_point(40, 0.1, plain=False), plain) is None, "no plain one is as fast"
    assert below_the_line(plain[1], plain) is None


def test_levers_are_read_off_a_point() -> None:
    whole = _point(100, 0.5)
    passes = "truncate-refinement{stages=1}, prune-channels{ratio=0.1}, reconstruct"
    assert levers(Rejected(304, "int8", f"exact, {passes}, quantize", "slow"), whole) == {
        "height": "304 rows instead of 368",
        "precision": "int8 instead of float32",
        "stages": "truncate-refinement{stages=1}",
        "channels": "prune-channels{ratio=0.1}",
    }
    assert levers(whole, whole) == {}
