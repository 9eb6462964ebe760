"""What a command is busy with, on stderr: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from graphopt.commands.output import Level, level

_COUNT = re.compile(r"\b(\d+) of (\d+)\b")
EVERY = 10.0
"""Seconds between two lines of a log."""


@dataclass
class Clock:
    """How long a step will still take, from how far it has come.

    A step is what is told with other numbers: `12 of 58` of it are done. What is told in brackets
    behind them, such as a layer's name, may change meanwhile.
    """

    now: Callable[[], float] = time.monotonic
    _step: str = ""
    _since: float = 0.0
    _first: int = 0
    _done: int = 0
    total: int | None = None
    """How many things the step does; None where nothing is counted."""

    def told(self, text: str) -> None:
        """Take in what a command says it is doing."""
        count = _COUNT.search(text)
        text = text.partition(" (")[0]
        done, self.total = (int(count[1]), int(count[2])) if count else (0, None)
        step = f"{_COUNT.sub('', text) if count else text} of {self.total}"
        if step != self._step or done < self._done:
            self._step, self._since, self._first = step, self.now(), done
        self._done = done

    @property
    def done(self) -> int:
        """So much of the step."""
        return self._done

    def left(self) -> float | None:
        """Seconds that the step will still take; None where that cannot be told yet."""
        past = self._done - self._first
        if self.total is None or past < 1:
            return None
        return (self.now() - self._since) / past * max(0, self.total - self._done)


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min, 2 h 5 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _left(clock: Clock) -> str:
    left = clock.left()
    return "" if left is None else f"about {duration(left)} left"


@contextmanager
def shown(first: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done: the text that was last told, and a bar where that counts.

    `12 of 58` in a text makes the bar, and tells how much time is left. In a log (stderr is no
    terminal) there is a line every `EVERY` seconds; with --verbose one for each step.

    Args:
        first: the text to begin with.

    Yields:
        What to tell texts to.
    """
    said = level()
    if said is Level.QUIET:
        yield lambda _: None
    elif said is Level.VERBOSE or not sys.stderr.isatty():
        with _logged(first, EVERY, every_step=said is Level.VERBOSE) as tell:
            yield tell
    else:
        with _bar(first) as tell:
            yield tell


@contextmanager
def _bar(first: str) -> Iterator[Callable[[str], None]]:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    from graphopt.display.tables import console

    clock = Clock()
    clock.told(first)
    words = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=words),
        BarColumn(bar_width=16),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Progress(*columns, console=console(stderr=True), transient=True, expand=True) as progress:
        task = progress.add_task(first, total=clock.total, left="")

        def tell(text: str) -> None:
            clock.told(text)
            progress.update(
                task, description=text, completed=clock.done, total=clock.total, left=_left(clock)
            )

        yield tell


@contextmanager
def _logged(
    first: str, every: float, *, every_step: bool = False
) -> Iterator[Callable[[str], None]]:
    """Lines for a log; also while one step takes long, from a thread that ends with the block."""
    clock, start, current, stop = Clock(), time.monotonic(), first, threading.Event()
    clock.told(first)
    lock = threading.Lock()

    def write() -> None:
        left = _left(clock)
        past = duration(time.monotonic() - start)
        line = f"{current} ({past}{', ' if left else ''}{left})"
        with lock:
            print(line, file=sys.stderr, flush=True)  # noqa: T201

    def now_and_then() -> None:
        while not stop.wait(every):
            write()

    def tell(text: str) -> None:
        nonlocal current
        clock.told(text)
        changed, current = text != current, text
        if every_step and changed:
            write()

    thread = threading.Thread(target=now_and_then, daemon=True)
    thread.start()
    try:
        if every_step:
            write()
        yield tell
    finally:
        stop.set()
        thread.join()
