"""What the words of every command line mean before options are told from arguments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import typer
from typer.core import TyperCommand

from graphopt.commands.output import Level, level, remark
from graphopt.errors import GraphoptError

RENAMED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "bench": {"--result-json": "--json"},
        "sensitivity": {"--photos": "--calib-photos"},
    }
)
"""Old names of options, by command; they are understood for one release, and warned of."""

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
"""An option as texts name it."""

STDOUT = "-"
"""What `--json` is given to print."""

HELP = {"-h", "--help"}
"""Help is the same everywhere: no configuration is read for it."""

_READ = "graphopt.configuration"
"""Where a command's context keeps the file that was read."""


class Command(TyperCommand):
    """A command with the words that all commands share."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what old names and a bare `--json` stand for; defaults are the configuration's."""
        words = list(_json(_renamed(args, RENAMED.get(self.name or "", {}))))
        if not ctx.resilient_parsing and not HELP & set(words):
            self._configure(ctx)
        return super().parse_args(ctx, words)

    def _configure(self, ctx: Any) -> None:
        """Make what the configuration says of this command its defaults."""
        from graphopt.commands.configuration import read_configuration

        if (found := read_configuration()) is None:
            return
        names: list[str] = []
        at = ctx
        while at.parent is not None:
            names.insert(0, at.info_name)
            at = at.parent
        options = getattr(self.callback, "options", None)
        ctx.default_map = found.values(names, options, at.command.commands)
        ctx.meta[_READ] = found.file

    def invoke(self, ctx: Any) -> Any:
        """Run it; a hint that names an option which it lacks says whose that is."""
        said = ctx.params
        if _READ in ctx.meta and (
            said.get("verbose") or (level() is Level.VERBOSE and not said.get("quiet"))
        ):
            remark(f"options from {ctx.meta[_READ]}")
        try:
            return super().invoke(ctx)
        except GraphoptError as error:
            error.hint = _addressed(error.hint, self, ctx.find_root().command)
            raise


def flags_of(command: Any) -> set[str]:
    """The names of a command's options, `--quiet` and all; of a group, those of its commands."""
    inner = getattr(command, "commands", {}).values()
    own = {flag for param in command.params for flag in param.opts}
    return own.union(*map(flags_of, inner))


def _addressed(hint: str | None, command: Any, root: Any) -> str | None:
    notes: dict[str, list[str]] = {}
    for flag in dict.fromkeys(FLAG.findall(hint or "")):
        owners = [name for name, c in getattr(root, "commands", {}).items() if flag in flags_of(c)]
        told = any(re.search(rf"\b{name}\b", hint or "") for name in owners)
        if owners and not told and flag not in flags_of(command):
            notes.setdefault(", ".join(owners), []).append(flag)
    if not notes:
        return hint
    said = "; ".join(f"{', '.join(flags)}: of graphopt {names}" for names, flags in notes.items())
    return f"{hint} ({said})"


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
