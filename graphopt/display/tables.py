"""Tables and sentences that stay readable on 80 columns, and the consoles they are printed to.

What is printed may hold names out of files that look like rich's markup (`blk[/a0]`): the consoles
here, and all that is printed to them, take every text as it is.
"""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

LEAST = 16
"""Cells that a column of names or words keeps, however narrow the terminal is."""


def console(*, stderr: bool = False) -> Console:
    """A console that prints texts as they are, as wide as the terminal.

    COLUMNS sets another width, also into a file or pipe, where it is 80 otherwise.
    """
    wide = os.environ.get("COLUMNS", "")
    return Console(
        stderr=stderr,
        width=int(wide) if wide.isdecimal() and int(wide) else None,
        markup=False,
        emoji=False,
        highlight=False,
    )


def say(text: str, *, stderr: bool = False, style: str = "") -> None:
    """Print a sentence, wrapped between words: paths stay whole, to be copied.

    On stderr into a file or pipe it is one line.
    """
    to = console(stderr=stderr)
    if to.is_terminal or not stderr:
        lines = textwrap.wrap(
            text, to.width, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
        )
        text = "\n".join(lines)
    to.print(Text(text, style), soft_wrap=True)


_FULL = 70
"""Characters of a line in a docstring beyond which the next one goes on with its paragraph."""


def say_page(text: str) -> None:
    """Print a text of indented paragraphs, which are laid out anew where they are too wide."""
    width = console().width
    paragraphs: list[str] = []
    before = 0
    for line in text.splitlines():
        if before > _FULL and line and _indent(paragraphs[-1]) == _indent(line):
            paragraphs[-1] += f" {line.strip()}"
        else:
            paragraphs.append(line)
        before = len(line)
    for paragraph in paragraphs:
        console().print(
            textwrap.fill(
                paragraph,
                width,
                subsequent_indent=_indent(paragraph),
                break_long_words=False,
                break_on_hyphens=False,
            ),
            soft_wrap=True,
        )


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


class Kind(str, Enum):
    """How a column gives way where there is too little room."""

    KEY = "key"
    """What users type or look up; never cut."""
    NAME = "name"
    """The name of a layer, a kernel or a file: elided in the middle; where two would then look the
    same, folded over several lines."""
    WORDS = "words"
    """Folded."""
    NUMBER = "number"
    """Stands at the right, and is folded only where the table would not fit otherwise."""


_GAP = 2
"""Cells between two columns."""
_WHOLE = (Kind.KEY, Kind.NUMBER)


class Grid(Table):
    """A table whose names never shrink to nothing.

    Args:
        columns: headings from left to right; pairs where a heading comes twice.
        title: said above it.
    """

    def __init__(
        self, columns: Mapping[str, Kind] | Sequence[tuple[str, Kind]], *, title: str = ""
    ) -> None:
        super().__init__(
            title=Text(title, overflow="fold") if title else None,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        pairs = list(columns.items()) if isinstance(columns, Mapping) else columns
        self._kinds = tuple(kind for _, kind in pairs)
        self._names = tuple(_Names() for _ in pairs)
        for heading, kind in pairs:
            number = kind is Kind.NUMBER
            self.add_column(
                Text(heading),
                justify="right" if number else "left",
                no_wrap=kind in _WHOLE,
                overflow="fold",
            )

    def add(self, *cells: RenderableType, style: str = "") -> None:
        """A row; texts are printed as they are."""
        row: list[RenderableType] = []
        for cell, kind, names in zip(cells, self._kinds, self._names, strict=True):
            if kind is Kind.NAME:
                row.append(names.cell(str(cell)))
            else:
                row.append(Text(cell) if isinstance(cell, str) else cell)
        self.add_row(*row, style=style or None)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, every column as wide as it needs or as there is room."""
        cells = [[console.measure(cell) for cell in (c.header, *c.cells)] for c in self.columns]
        most = [max(cell.maximum for cell in column) for column in cells]
        room = options.max_width - _GAP * len(self.columns) + _GAP - 1
        for least in (LEAST, *range(LEAST - 1, 0, -1)):
            # Where even short names leave too little room, numbers and keys have to give way too.
            whole = _WHOLE if least >= LEAST / 2 else ()
            needed = [
                wide if kind in whole else min(wide, least, max(c.minimum for c in column))
                for kind, wide, column in zip(self._kinds, most, cells, strict=True)
            ]
            if sum(needed) <= room:
                break
        for column, width in zip(self.columns, _shared(room, needed, most), strict=True):
            column.width, column.no_wrap = width, False
        yield from super().__rich_console__(console, options)


def _shared(room: int, least: Sequence[int], most: Sequence[int]) -> list[int]:
    """Widths between `least` and `most` that take up no more than `room` in all."""
    left = max(0, room - sum(least))
    wanted = sum(most) - sum(least)
    part = min(1.0, left / wanted) if wanted else 0.0
    return [low + int(part * (high - low)) for low, high in zip(least, most, strict=True)]


class _Names:
    """The names of one column."""

    def __init__(self) -> None:
        self._all: dict[str, None] = {}
        self._looks: dict[int, dict[str, str]] = {}

    def cell(self, name: str) -> _Name:
        """One more."""
        self._all[name] = None
        self._looks.clear()
        return _Name(name, self)

    def at(self, width: int) -> Mapping[str, str]:
        """What each name looks like at a width."""
        if width not in self._looks:
            self._looks[width] = distinct(list(self._all), width)
        return self._looks[width]


class _Name:
    """A name in a table."""

    def __init__(self, name: str, others: _Names) -> None:
        self._name, self._others = name, others

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        whole = cell_len(self._name)
        return Measurement(min(whole, LEAST), whole)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self._others.at(options.max_width)[self._name], overflow="fold")


_HEADS = (0.5, 0.3, 0.7, 0.15, 0.85)
"""Parts of an elided name that its beginning may take."""


def distinct(names: Sequence[str], width: int) -> dict[str, str]:
    """Names with their middles elided to `width` characters, no two alike.

    Those that would be alike wherever they are cut stay whole.
    """
    shown: dict[str, str] = {}
    left = list(names)
    for head in _HEADS:
        looks = {name: elided(name, width, head) for name in left}
        count = Counter([*shown.values(), *looks.values()])
        shown |= {name: look for name, look in looks.items() if count[look] == 1}
        left = [name for name in left if name not in shown]
    return shown | {name: name for name in left}


def elided(name: str, width: int, head: float = 0.5) -> str:
    """A name of at most `width` characters: its ends, where it is longer."""
    if len(name) <= width:
        return name
    first = round((width - 1) * head)
    return f"{name[:first]}…{name[len(name) - (width - 1 - first) :]}"
