"""Plots: what is drawn stands where its numbers say."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import pytest

from graphopt.display.plots import EDGE, HEIGHT, LEFT, LEGEND, WIDTH, Axis, Plot

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def plot() -> Plot:
    return Plot(
        Axis("speed-up", (1.0, 2.0, 3.0), "{:g}x".format), Axis("kept", (0.0, 1.0), "{:.0%}".format)
    )


def parsed(plot: Plot) -> ElementTree.Element:
    return ElementTree.fromstring(str(plot))


def test_corners_are_the_ends_of_the_axes(plot: Plot) -> None:
    plot.line([(1.0, 0.0), (3.0, 1.0)])
    (line,) = parsed(plot).findall(f"{SVG}polyline")
    corners = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert corners == [(LEFT, HEIGHT - EDGE), (WIDTH - LEGEND, EDGE)]


def test_a_dot_has_its_label_beside_it(plot: Plot) -> None:
    plot.dot((2.0, 0.5), "1.8x")
    picture = parsed(plot)
    (dot,) = picture.findall(f"{SVG}circle")
    (label,) = (text for text in picture.findall(f"{SVG}text") if text.text == "1.8x")
    assert float(dot.attrib["cx"]) == (LEFT + WIDTH - LEGEND) / 2
    assert float(dot.attrib["cy"]) == HEIGHT / 2
    assert (label.attrib["x"], label.attrib["y"]) == (dot.attrib["cx"], dot.attrib["cy"])


def test_ticks_and_titles_are_written(plot: Plot) -> None:
    texts = [text.text for text in parsed(plot).findall(f"{SVG}text")]
    assert texts == ["0%", "100%", "1x", "2x", "3x", "kept", "speed-up"]


def test_named_lines_stand_below_each_other_in_the_legend(plot: Plot) -> None:
    plot.line([(1.0, 0.0), (2.0, 1.0)])
    plot.line([(1.0, 0.0), (2.0, 1.0)], name="a < b & c")
    plot.line([(1.0, 0.0), (2.0, 1.0)], name="other")
    texts = {text.text: text for text in parsed(plot).findall(f"{SVG}text")}
    heights = [float(texts[name].attrib["y"]) for name in ("a < b & c", "other")]
    assert heights == [EDGE, EDGE + 18]


@pytest.mark.parametrize("apart", [0.0, 0.01, 0.05])
def test_labels_do_not_lie_over_each_other(plot: Plot, apart: float) -> None:
    labels = ["dense", "1.25x", "1.5x", "1.8x", "2.15x", "12x"]
    for number, label in enumerate(labels):
        plot.dot((1.5 + number * apart, 0.5 + (number % 2) * apart), label)
    boxes = []
    for text in parsed(plot).findall(f"{SVG}text"):
        if text.text in labels:
            x, y, dx, dy = (float(text.attrib[name]) for name in ("x", "y", "dx", "dy"))
            left = x + dx - (6 * len(text.text) if text.get("text-anchor") == "end" else 0)
            boxes.append((left, y + dy - 9, left + 6 * len(text.text), y + dy))
    assert len(boxes) == len(labels)
    for one, other in combinations(boxes, 2):
        beside = one[2] <= other[0] or other[2] <= one[0]
        above = one[3] <= other[1] or other[3] <= one[1]
        assert beside or above


def test_a_label_that_is_alone_stands_right_above_its_dot(plot: Plot) -> None:
    plot.dot((1.2, 0.2), "a")
    plot.dot((2.8, 0.8), "b")
    texts = [t for t in parsed(plot).findall(f"{SVG}text") if t.text in ("a", "b")]
    assert [(t.attrib["dx"], t.attrib["dy"], t.get("text-anchor")) for t in texts] == [
        ("7", "-7", None)
    ] * 2
