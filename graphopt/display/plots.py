"""Small line plots as SVG text: two axes, lines, dots, a legend beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, EDGE = 760, 420, 60, 40
"""Size of the picture, and margins of the plot: on the left, above and below, in pixels."""
LEGEND = 210
"""What is right of a plot with a legend."""
COLORS = (
    "#1b6ca8",
    "#d1495b",
    "#3a7d44",
    "#edae49",
    "#6f4e7c",
    "#00798c",
    "#9a5b2e",
    "#5c5c5c",
)

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """One of a plot's two axes, from the first of its ticks to the last.

    Args:
        title: what is on it.
        ticks: at least two values, rising.
        shown: a tick's value as text.
    """

    title: str
    ticks: Sequence[float]
    shown: Callable[[float], str]

    def part(self, value: float) -> float:
        """Where a value is between the axis's ends, 0..1; outside them it is beyond."""
        return (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])


_OFFSETS = [(side * 7, dy) for dy in (-7, 18, -21, 32, -35, 46) for side in (1, -1)]
"""Where a dot's label may begin, or end, from the dot; the first that is free is taken."""


class _Box(NamedTuple):
    """About what a label covers."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def at(cls, x: float, y: float, characters: int, dx: int, dy: int) -> _Box:
        """A label that begins, or ends where dx is negative, at (x + dx, y + dy)."""
        width = 7 * characters
        left = x + dx - (width if dx < 0 else 0)
        return cls(left, y + dy - 10, left + width, y + dy + 3)

    def meets(self, other: _Box) -> bool:
        """Whether two labels lie over each other."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


@dataclass
class Plot:
    """A plot that is being drawn; what is drawn later lies over what was drawn before.

    Args:
        x: the axis to the right.
        y: the axis upwards; its ticks get lines across.
        right: what to leave free right of the plot.
    """

    x: Axis
    y: Axis
    right: int = LEGEND
    _parts: list[str] = field(default_factory=list, init=False)
    _named: int = field(default=0, init=False)
    _labels: list[_Box] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        end, bottom = WIDTH - self.right, HEIGHT - EDGE
        for tick in self.y.ticks:
            _, y = self._place((self.x.ticks[0], tick))
            self._parts += [
                f'<path d="M{LEFT},{y} H{end}" stroke="#ddd"/>',
                f'<text x="{LEFT - 6}" y="{y}" dy="4" text-anchor="end">'
                f"{escape(self.y.shown(tick))}</text>",
            ]
        for tick in self.x.ticks:
            x, _ = self._place((tick, self.y.ticks[0]))
            self._parts.append(
                f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">'
                f"{escape(self.x.shown(tick))}</text>"
            )
        self._parts += [
            f'<text x="{LEFT}" y="{EDGE - 16}">{escape(self.y.title)}</text>',
            f'<text x="{end}" y="{HEIGHT - 6}" text-anchor="end">{escape(self.x.title)}</text>',
        ]

    def _place(self, point: Point) -> tuple[str, str]:
        """A point's place in the picture, as SVG writes it."""
        wide, high = WIDTH - LEFT - self.right, HEIGHT - 2 * EDGE
        x, y = LEFT + wide * self.x.part(point[0]), HEIGHT - EDGE - high * self.y.part(point[1])
        return f"{x:.1f}", f"{y:.1f}"

    def line(self, points: Iterable[Point], color: str = COLORS[0], name: str = "") -> None:
        """A line through points; a name puts it into the legend."""
        places = " ".join(",".join(self._place(point)) for point in points)
        self._parts.append(
            f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="2"/>'
        )
        if name:
            left, y = WIDTH - self.right, EDGE + 18 * self._named
            self._named += 1
            self._parts += [
                f'<path d="M{left + 15},{y} h20" stroke="{color}" stroke-width="2"/>',
                f'<text x="{left + 42}" y="{y}" dy="4">{escape(name)}</text>',
            ]

    def dot(self, point: Point, label: str, color: str = COLORS[0]) -> None:
        """A dot with its label right above it, or where else beside it no other label is."""
        x, y = self._place(point)
        boxes = [_Box.at(float(x), float(y), len(label), *offset) for offset in _OFFSETS]
        free = (box for box in boxes if not any(box.meets(other) for other in self._labels))
        box = next(free, boxes[0])
        self._labels.append(box)
        dx, dy = _OFFSETS[boxes.index(box)]
        anchor = ' text-anchor="end"' if dx < 0 else ""
        self._parts += [
            f'<circle cx="{x}" cy="{y}" r="4" fill="{color}"/>',
            f'<text x="{x}" y="{y}" dx="{dx}" dy="{dy}"{anchor}>{escape(label)}</text>',
        ]

    def __str__(self) -> str:
        """The picture, an SVG file's text."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        )
        return "\n".join([*head, *self._parts, "</svg>", ""])
