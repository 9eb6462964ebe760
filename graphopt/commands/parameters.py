"""Typer's parameters of a command, made from the dataclass of its options."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from enum import Enum
from functools import wraps
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from graphopt.display.options import Field, build, fields_of
from graphopt.errors import UsageError


@dataclass(frozen=True)
class After:
    """The place of a parameter in help: behind the option of that name."""

    name: str


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with an option for each field of the dataclass that its parameter `options` is.

    The fields stand in the place of that parameter; parameters that are annotated with `After`
    stand among them. The command is called with the dataclass.
    """
    signature = inspect.signature(command, eval_str=True)
    kind: type = signature.parameters["options"].annotation
    fields = fields_of(kind)
    parameters = _in_order(signature.parameters.values(), fields)

    @wraps(command)
    def wrapped(**given: Any) -> None:
        values = dict(_values(fields, given))
        own = {name: given[name] for name in signature.parameters if name in given}
        command(**own, options=build(kind, values))

    shown: Any = wrapped  # functions declare neither __signature__ nor options
    shown.__signature__ = signature.replace(parameters=parameters)
    shown.options = kind
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def _in_order(
    parameters: Iterable[inspect.Parameter], fields: Iterable[Field]
) -> list[inspect.Parameter]:
    """A command's parameters, with one for each field in the place of `options`."""
    ordered: list[inspect.Parameter] = []
    for parameter in parameters:
        if parameter.name == "options":
            ordered += map(_parameter, fields)
        else:
            ordered.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    for parameter in tuple(ordered):
        for place in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(place, After):
                ordered.remove(parameter)
                names = [one.name for one in ordered]
                ordered.insert(names.index(place.name) + 1, parameter)
    return ordered


def _parameter(field: Field) -> inspect.Parameter:
    """What Typer makes an option of."""
    option = field.option
    kind, default = _typed(field)
    info = typer.Option(
        *([field.flag] if kind is bool else []),
        help=option.help,
        metavar=option.metavar,
        min=option.min,
        max=option.max,
        rich_help_panel=option.panel.value,
        show_default=option.default_text or True,
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[kind | None if default is None else kind, info],
    )


def _typed(field: Field) -> tuple[Any, Any]:
    """Type and default of a field as Typer knows them: lists, texts and enumerations."""
    kind, default, option = field.type, field.default, field.option
    if get_origin(kind) is tuple and option.separator:
        hidden = option.default_text is not None
        return str, None if hidden else option.separator.join(map(str, default))
    if get_origin(kind) is tuple:
        return types.GenericAlias(list, get_args(kind)[:1]), None
    if get_origin(kind) is Literal:
        # Older releases of Typer know enumerations only.
        make_enum: Any = Enum  # mypy reads literal members only
        names = make_enum(field.name, {value: value for value in get_args(kind)}, type=str)
        return names, None if default is None else names(default)
    return kind, default


def _parts(field: Field, text: str) -> Iterator[Any]:
    """The values in a text that separates them.

    Raises:
        UsageError: one is of another type.
    """
    kind, *_ = get_args(field.type)
    for part in text.split(field.option.separator):
        if not part.strip():
            continue
        try:
            yield kind(part.strip())
        except ValueError:
            raise UsageError(
                f"{field.flag}: {part.strip()!r} is no number", hint=f"such as {field.flag} 4,5"
            ) from None


def _values(fields: Iterable[Field], given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields' values from Typer's; none of what was left out."""
    for field in fields:
        value = given[field.name]
        if value is None:
            continue
        if isinstance(value, Enum):
            value = value.value
        elif get_origin(field.type) is tuple:
            if field.option.separator:
                if not value:
                    continue
                value = list(_parts(field, value))
            value = tuple(value)
        yield field.name, value
