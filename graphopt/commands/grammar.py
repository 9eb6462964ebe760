"""What the words of every command line mean before options are told from arguments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import typer
from typer.core import TyperCommand

RENAMED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "bench": {"--result-json": "--json"},
        "sensitivity": {"--photos": "--calib-photos"},
    }
)
"""Old names of options, by command; they are understood for one release, and warned of."""

STDOUT = "-"
"""What `--json` is given to print."""


class Command(TyperCommand):
    """A command with the words that all commands share."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what old names and a bare `--json` stand for."""
        return super().parse_args(
            ctx, list(_json(_renamed(args, RENAMED.get(self.name or "", {}))))
        )


def _renamed(words: Iterable[str], names: Mapping[str, str]) -> Iterator[str]:
    told = set()
    for word in words:
        option, equals, value = word.partition("=")
        if option in names:
            if option not in told:
                typer.echo(f"graphopt: {option} is now called {names[option]}", err=True)
                told.add(option)
            yield f"{names[option]}{equals}{value}"
        else:
            yield word


def _json(words: Iterable[str]) -> Iterator[str]:
    """`--json FILE` as one word, so that a bare one, or `-`, means stdout."""
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            yield from [word, *waiting]
            return
        if word == "--json":
            word += f"={waiting.pop(0) if waiting and _names_json(waiting[0]) else STDOUT}"
        yield word


def _names_json(word: str) -> bool:
    """Whether a word after `--json` is a file to write, and not the command's next argument.

    Anything can be said after a `=`.
    """
    path = Path(word)
    if word == STDOUT or path.suffix.lower() == ".json":
        return True
    if word.startswith("-") or "://" in word or path.suffix or path.is_dir():
        return False
    if path.is_file():  # what was written before may be written again, and nothing else
        with path.open("rb") as file:
            return file.read(1) in (b"[", b"{")
    return len(path.parts) > 1
