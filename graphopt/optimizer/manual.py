"""What can be said about a pass without running it: its options, its manual page, its promise."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, fields, replace
from typing import (
    Any,
    Literal,
    get_args,
    get_origin,
    get_type_hints,
)

from graphopt.optimizer.pass_contract import AnyPass, Numerics, quoted


@dataclass(frozen=True)
class Option:
    """An option of a pass, for its manual page and for reading pipelines."""

    name: str
    type: Any
    default: Any
    help: str


def options_of(pass_type: type[AnyPass]) -> dict[str, Option]:
    """A pass's options by name; the default is `dataclasses.MISSING` where one must be given."""
    hints = get_type_hints(pass_type, include_extras=True)
    return {
        f.name: Option(f.name, hints[f.name], f.default, f.metadata.get("help", ""))
        for f in fields(pass_type)
        if f.init
    }


def manual_of(pass_type: type[AnyPass]) -> str:
    """The manual page: the docstring, the rules, then the options with types and defaults."""
    lines = [_docstring(pass_type) or "(no manual page)"]
    if pass_type.rules:
        lines += ["", "Rules:"]
        for name, line in pass_type.rules.items():
            lines += [f"    {name}", f"        {line}"]
    options = options_of(pass_type).values()
    if options:
        lines += ["", "Options:"]
        for o in options:
            default = "required" if o.default is MISSING else f"default {quoted(o.default)}"
            lines.append(f"    {o.name}: {type_text(o.type)} ({default})")
            if o.help:
                lines.append(f"        {o.help}")
    return "\n".join(lines)


def _docstring(pass_type: type[AnyPass]) -> str:
    """What its author wrote, and not the signature that dataclasses put in place of nothing."""
    text = inspect.cleandoc(pass_type.__doc__ or "")
    return "" if text.startswith(f"{pass_type.__name__}(") else text


def numerics_of(pass_type: type[AnyPass]) -> dict[str, Numerics]:
    """What a pass promises: "" for its options' defaults, "option=value" for what differs.

    Of options that are choices, and of numbers at their lower limit; nothing where options decide
    and one has no default.
    """
    fixed = inspect.getattr_static(pass_type, "numerics")
    if isinstance(fixed, Numerics):
        return {"": fixed}
    options = options_of(pass_type).values()
    if any(o.default is MISSING for o in options):
        return {}
    plain = pass_type()
    found = {"": plain.numerics}
    for o in options:
        for value in _telling_values(o.type):
            other = replace(plain, **{o.name: value}).numerics
            if other is not plain.numerics:
                found[f"{o.name}={quoted(value)}"] = other
    return found


def _telling_values(hint: Any) -> Iterator[Any]:
    """The values of an option that may change what its pass promises."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    elif hint is bool:
        yield from (False, True)
    for constraints in getattr(hint, "__metadata__", ()):  # pydantic's Field(ge=0), as of `ratio`
        yield from (c.ge for c in getattr(constraints, "metadata", ()) if hasattr(c, "ge"))


def type_text(hint: Any) -> str:
    """A type as people write it: `int`, `hard | hardtanh`."""
    origin_args = getattr(hint, "__args__", ())
    if getattr(hint, "__metadata__", None):  # Annotated[int, …]
        return type_text(hint.__origin__)
    if origin_args:
        return " | ".join(a.__name__ if isinstance(a, type) else str(a) for a in origin_args)
    return str(getattr(hint, "__name__", hint))


def catalogue(pass_types: Iterable[type[AnyPass]]) -> list[dict[str, Any]]:
    """Passes as plain data, for lists and for JSON."""
    return [
        {
            "name": p.name,
            "numerics": next((n.value for n in numerics_of(p).values()), "as its options say"),
            "numerics_with": {with_: n.value for with_, n in numerics_of(p).items() if with_},
            "summary": _docstring(p).split("\n\n")[0].replace("\n", " "),
            "manual": manual_of(p),
            "rules": dict(p.rules),
            "options": [
                {
                    "name": o.name,
                    "type": type_text(o.type),
                    "default": None if o.default is MISSING else o.default,
                    "help": o.help,
                }
                for o in options_of(p).values()
            ],
        }
        for p in pass_types
    ]
