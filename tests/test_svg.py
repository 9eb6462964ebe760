"""Plots: what is drawn stands where its numbers say."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from graphopt.svg import EDGE, HEIGHT, LEFT, LEGEND, WIDTH, Axis, Plot

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def plot() -> Plot:
    return Plot(
        Axis("speed-up", (1.0, 2.0, 3.0), "{:g}x".format), Axis("kept", (0.0, 1.0), "{:.0%}".format)
    )


def parsed(plot: Plot) -> ElementTree.Element:
    return ElementTree.fromstring(str(plot))


def test_corners_are_the_ends_of_the_axes(plot):
    plot.line([(1.0, 0.0), (3.0, 1.0)])
    (line,) = parsed(plot).findall(f"{SVG}polyline")
    corners = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert corners == [(LEFT, HEIGHT - EDGE), (WIDTH - LEGEND, EDGE)]


def test_a_dot_has_its_label_beside_it(plot):
    plot.dot((2.0, 0.5), "1.8x")
    picture = parsed(plot)
    (dot,) = picture.findall(f"{SVG}circle")
    (label,) = (text for text in picture.findall(f"{SVG}text") if text.text == "1.8x")
    assert float(dot.attrib["cx"]) == (LEFT + WIDTH - LEGEND) / 2
    assert float(dot.attrib["cy"]) == HEIGHT / 2
    assert (label.attrib["x"], label.attrib["y"]) == (dot.attrib["cx"], dot.attrib["cy"])


def test_ticks_and_titles_are_written(plot):
    texts = [text.text for text in parsed(plot).findall(f"{SVG}text")]
    assert texts == ["0%", "100%", "1x", "2x", "3x", "kept", "speed-up"]


def test_named_lines_stand_below_each_other_in_the_legend(plot):
    plot.line([(1.0, 0.0), (2.0, 1.0)])
    plot.line([(1.0, 0.0), (2.0, 1.0)], name="a < b & c")
    plot.line([(1.0, 0.0), (2.0, 1.0)], name="other")
    texts = {text.text: text for text in parsed(plot).findall(f"{SVG}text")}
    heights = [float(texts[name].attrib["y"]) for name in ("a < b & c", "other")]
    assert heights == [EDGE, EDGE + 18]
