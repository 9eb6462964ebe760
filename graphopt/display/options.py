"""How an option of a command is declared: in a dataclass, with what its help says.

A command's options are one frozen dataclass, whose fields are annotated with an `Option`:

    @dataclass(frozen=True)
    class TuneOptions:
        threads: Annotated[int | None, Option("CPU threads.", Panel.SIZE, min=1)] = None

Python callers make one, the command line is made from it (`graphopt.commands.parameters`), and a
configuration file may set its fields (`graphopt.commands.configuration`). Modules that define such
dataclasses do not postpone annotations: to evaluate them from text takes longer, and every command
line would wait for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


class Panel(str, Enum):
    """Options that `--help` shows together."""

    WISH = "How fast, how accurate"
    PASSES = "Which passes"
    PHOTOS = "Photos"
    PRUNING = "Pruning and training"
    TARGET = "What it is for"
    SIZE = "Input size and threads"
    CHECKS = "Checks"
    VIEW = "How the network sees photos"
    PEOPLE = "People"
    MEASUREMENT = "Measurement"
    NETWORK = "Network"
    WRITTEN = "What is written"


@dataclass(frozen=True)
class Option:
    """What is known of an option beside its name, type and default.

    Args:
        help: what it does, with the unit of its value.
        panel: where help shows it.
        metavar: what stands for its value in help.
        min: the least value.
        max: the greatest.
        separator: what separates the values of a tuple on the command line; without it, the option
            is given once for each.
        default_text: the default as help shows it.
    """

    help: str
    panel: Panel
    metavar: str | None = None
    min: float | None = None
    max: float | None = None
    separator: str = ""
    default_text: str | None = None


@dataclass(frozen=True)
class Field:
    """A field of a dataclass of options, or of one within it.

    Args:
        name: the field's.
        type: of its value, without None.
        default: its value unless another is given; `dataclasses.MISSING` if one must be.
        option: what help says.
    """

    name: str
    type: Any
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """Its name on the command line, and in a configuration file after the dashes."""
        return f"--{self.name.replace('_', '-')}"


@cache
def fields_of(options: type) -> tuple[Field, ...]:
    """The fields of a dataclass of options in order, in the place of a group those of the group."""
    return tuple(_fields(options))


def _fields(options: type) -> Iterator[Field]:
    for name, hint, default in _annotated(options):
        kind, *metadata = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from fields_of(kind)
        else:
            (option,) = (one for one in metadata if isinstance(one, Option))
            yield Field(name, _without_none(kind), default, option)


def build(options: type, values: dict[str, Any]) -> Any:
    """A dataclass of options, from the values of its fields and of those of its groups.

    Args:
        options: the dataclass.
        values: by name; what is left out has its default.
    """
    given = {}
    for name, hint, _ in _annotated(options):
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            given[name] = build(hint, values)
        elif name in values:
            given[name] = values[name]
    return options(**given)


@cache
def _annotated(options: type) -> tuple[tuple[str, Any, Any], ...]:
    """The name, annotation and default of each field."""
    hints = get_type_hints(options, include_extras=True)
    return tuple((f.name, hints[f.name], f.default) for f in dataclasses.fields(options))


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, UnionType):
        return kind
    (only,) = (one for one in get_args(kind) if one is not type(None))
    return only
