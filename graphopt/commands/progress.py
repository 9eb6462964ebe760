"""What a command is busy with, on stderr."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_COUNT = re.compile(r"\b(\d+) of (\d+)\b")


@contextmanager
def shown(first: str) -> Iterator[Callable[[str], None]]:
    """A spinner with the text that was last told, and a bar where that counts: `12 of 58`.

    Args:
        first: the text to begin with.

    Yields:
        What to tell texts to.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as (
        progress
    ):
        task = progress.add_task(first, total=None)

        def tell(text: str) -> None:
            count = _COUNT.search(text)
            done, total = (int(count[1]), int(count[2])) if count else (0, None)
            progress.update(task, description=text, completed=done, total=total)

        yield tell
