"""Options of commands from a file: `graphopt.toml`, or `[tool.graphopt]` in `pyproject.toml`.

A table for each command, an option a key, without its dashes:

    [optimize]
    preset = "exact"
    calib-photos = 200

The file is looked for in the current folder; `graphopt.toml` counts if both are there. What the
command line says wins. Paths are relative to the file. What is written where, and how a command
reports, is said on the command line alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from graphopt.display.options import Field, fields_of
from graphopt.errors import InputError, UsageError

OWN, SHARED = Path("graphopt.toml"), Path("pyproject.toml")


@dataclass(frozen=True)
class Configuration:
    """What a file says of commands.

    Args:
        file: the file.
        table: the name of the table that holds those of the commands; "" for the file itself.
        content: that table.
    """

    file: Path
    table: str
    content: Mapping[str, Any]

    def values(
        self, command: Sequence[str], options: type | None, commands: Iterable[str]
    ) -> dict[str, Any]:
        """The options of a command, by field, as its command line takes them.

        Args:
            command: its name, and before it that of its group.
            options: the dataclass of its options; None where it has none that a file can set.
            commands: the names of all commands and groups.

        Raises:
            UsageError: a table that is no command's, an option that there is not, or a value of
                another type or beyond a limit.
        """
        for name in self.content:
            if name not in commands:
                raise UsageError(
                    f"{self.file}: there is no command for the table [{self._path(name)}]",
                    hint=_near(name, commands, "graphopt -h"),
                )
        found: Any = self.content
        for depth, name in enumerate(command, 1):
            found = found.get(name, {})
            if not isinstance(found, Mapping):
                path = self._path(*command[:depth])
                raise UsageError(f"{self.file}: {path} must be a table, not {found!r}")
        fields = {f.flag.removeprefix("--"): f for f in fields_of(options)} if options else {}
        return dict(self._values(command, found, fields))

    def _values(
        self, command: Sequence[str], found: Mapping[str, Any], fields: Mapping[str, Field]
    ) -> Iterator[tuple[str, Any]]:
        for key, value in found.items():
            where = f"{self.file}: [{self._path(*command)}]"
            if key not in fields:
                raise UsageError(
                    f"{where} has no option {key!r} that a file can set",
                    hint=_near(key, fields, f"graphopt {' '.join(command)} -h"),
                )
            field = fields[key]
            if not _fits(value, field.type) or not _within(value, field):
                raise UsageError(f"{where} {key} must be {_right(field)}, not {value!r}")
            yield field.name, self._typed(value, field)

    def _typed(self, value: Any, field: Field) -> Any:
        """A value as the command line has it; paths in it lead on from the file's folder."""
        if isinstance(value, list):
            inner = get_args(field.type)[0]
            values = [self.file.parent / one if inner is Path else one for one in value]
            separator = field.option.separator
            return separator.join(map(str, values)) if separator else [str(v) for v in values]
        return str(self.file.parent / value) if field.type is Path else value

    def _path(self, *names: str) -> str:
        return ".".join(filter(None, (self.table, *names)))


def read_configuration(folder: Path = Path()) -> Configuration | None:
    """The configuration in a folder, the current one by default; None where there is none.

    Raises:
        InputError: the file cannot be read, or is no TOML.
        UsageError: it says something else of `tool.graphopt` than tables.
    """
    own, shared = folder / OWN, folder / SHARED
    if own.is_file():
        return Configuration(own, "", _tables(own))
    if shared.is_file() and b"graphopt" in _bytes(shared):
        found: Any = _tables(shared)
        for name in ("tool", "graphopt"):
            found = found.get(name, {})
            if not isinstance(found, Mapping):
                raise UsageError(f"{shared}: tool.graphopt must be a table, not {found!r}")
        return Configuration(shared, "tool.graphopt", found) if found else None
    return None


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error


def _tables(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        found: dict[str, Any] = tomllib.loads(_bytes(file).decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{file} is no TOML: {error}") from error
    return found


def _near(word: str, known: Iterable[str], where: str) -> str:
    import difflib

    close = difflib.get_close_matches(word.replace("_", "-"), list(known), n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"see `{where}`"


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of TOML is of a field's type."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(_fits(one, get_args(kind)[0]) for one in value)
    taken: Any = {Path: str, float: (int, float)}.get(kind, kind)
    return isinstance(value, taken) and (kind is bool or not isinstance(value, bool))


def _within(value: Any, field: Field) -> bool:
    """Whether numbers are within the option's limits."""
    low, high = field.option.min, field.option.max
    numbers = value if isinstance(value, list) else [value]
    return all(
        (low is None or number >= low) and (high is None or number <= high) for number in numbers
    )


_WORDS: Mapping[Any, tuple[str, str]] = {
    bool: ("true or false", "of true or false"),
    int: ("a whole number", "of whole numbers"),
    float: ("a number", "of numbers"),
    str: ("a text", "of texts"),
    Path: ("a path", "of paths"),
}
"""Types in words: one value, and a list of them."""


def _right(field: Field) -> str:
    """What a field takes, in words."""
    kind, option = field.type, field.option
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        words = f"a list {_WORDS[get_args(kind)[0]][1]}"
    else:
        words = _WORDS[kind][0]
    limits = {"at least": option.min, "at most": option.max}
    said = [f"{text} {limit:g}" for text, limit in limits.items() if limit is not None]
    return f"{words}, {' and '.join(said)}" if said else words
