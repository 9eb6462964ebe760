"""Pipelines as text: 'fold-batchnorm, prune-blocks{ratio=0.5}' and back."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from typing import Any

from pydantic import TypeAdapter, ValidationError

from graphopt.errors import InputError, UsageError
from graphopt.optimizer.manual import options_of, type_text
from graphopt.optimizer.pass_contract import AnyPass
from graphopt.optimizer.registry import Passes, PassType, find_passes

PRESETS: Mapping[str, str] = {
    # Same outputs, fewer nodes.
    "exact": "canonicalize, fold-batchnorm, canonicalize",
    # What the device computes cheaply, as far as its profile says that it pays; then the weights
    # are fitted to what changed.
    "mobile": "canonicalize, fold-batchnorm, undilate-conv{way=fastest}, stack-large-conv, "
    "replace-swish{gate=fitted, smooth=true}, fold-batchnorm, reconstruct, canonicalize",
}


_PASS = re.compile(r"\s*(?P<name>[\w-]+)\s*(?:\{(?P<options>(?:\"[^\"]*\"|[^\"{}])*)\})?\s*(?:,|$)")


_OPTION = re.compile(r"[\s,]*(?P<name>\w+)\s*=\s*(?:\"(?P<quoted>[^\"]*)\"|(?P<plain>[^\s,\"{}]+))")


def parse_pipeline(text: str, known: Mapping[str, PassType] | None = None) -> list[AnyPass]:
    """Read a pipeline.

    Args:
        text: for example `fold-batchnorm, replace-swish{gate=hard}`.
        known: the passes to choose from, by name; without it all that are installed.

    Raises:
        InputError: for a pass, option or value that there is not, naming near matches.
    """
    known = find_passes() if known is None else known
    passes: list[AnyPass] = []
    position = 0
    while text[position:].strip():
        found = _PASS.match(text, position)
        if not found:
            raise UsageError(
                f"the pipeline cannot be read from {text[position:].strip()!r} on",
                hint="write: name, name{option=value, option=value}",
            )
        position = found.end()
        pass_type = lookup(found["name"], known)
        passes.append(_build(pass_type, found["options"] or ""))
    return passes


def format_pipeline(passes: Iterable[AnyPass]) -> str:
    """The text that `parse_pipeline` reads as these passes; options at their defaults left out."""
    return ", ".join(str(p) for p in passes)


def lookup(name: str, known: Mapping[str, PassType]) -> PassType:
    """The pass of a name.

    Raises:
        InputError: when there is none, naming near matches, or it is broken, saying why.
    """
    if name in known:
        return known[name]
    broken = known.broken if isinstance(known, Passes) else ()
    for problem in broken:
        if name in problem.names:
            raise InputError(
                f"the pass {name!r} cannot be used: {problem}", hint="repair it, or uninstall it"
            )
    among = f", unless in what is broken: {'; '.join(map(str, broken))}" if broken else ""
    raise UsageError(
        f"there is no pass {name!r}{among}", hint=_near(name, known, "graphopt passes list")
    )


def _near(word: str, choices: Iterable[str], where: str) -> str:
    close = difflib.get_close_matches(word, list(choices), n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"see `{where}`"


def _build(pass_type: PassType, text: str) -> AnyPass:
    options = options_of(pass_type)
    given: dict[str, Any] = {}
    position = 0
    while text[position:].strip(" ,\t\n"):
        found = _OPTION.match(text, position)
        if not found:
            raise UsageError(
                f"the options {{{text}}} of {pass_type.name} cannot be read",
                hint="write {option=value, option=value}",
            )
        position = found.end()
        name = found["name"]
        if name not in options:
            raise UsageError(
                f"pass {pass_type.name} has no option {name!r}",
                hint=_near(name, options, f"graphopt passes show {pass_type.name}"),
            )
        value = found["plain"] if found["quoted"] is None else found["quoted"]
        try:
            given[name] = TypeAdapter(options[name].type).validate_strings(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UsageError(
                f"option {name} of {pass_type.name} cannot be {value!r}: {reason}",
                hint=f"it takes {type_text(options[name].type)}",
            ) from error
    missing = [n for n, o in options.items() if o.default is MISSING and n not in given]
    if missing:
        raise UsageError(f"pass {pass_type.name} needs the option {missing[0]}")
    return pass_type(**given)
