"""How much a command says: -v and -q, which every command takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import IntEnum
from functools import wraps
from typing import Annotated, Any

import typer


class Level(IntEnum):
    """How much is said beside the result."""

    QUIET = 0
    """Errors."""
    NORMAL = 1
    """Progress and remarks."""
    VERBOSE = 2
    """Every step, and all of every report."""


Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Say every step, and show whole reports.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no remarks.")]

_level = Level.NORMAL


def level() -> Level:
    """How much is to be said."""
    return _level


def set_level(*, verbose: bool, quiet: bool, anew: bool = False) -> None:
    """Take what was said on the command line; `anew`: forget what was said before.

    Raises:
        BadParameter: both at once.
    """
    global _level
    if verbose and quiet:
        raise typer.BadParameter("--verbose or --quiet, not both")
    if anew or verbose or quiet:
        _level = Level.VERBOSE if verbose else Level.QUIET if quiet else Level.NORMAL


def remark(text: str, style: str = "dim") -> None:
    """Say something beside the result, on stderr, unless nobody wants to hear it."""
    from graphopt.display.tables import say

    if _level > Level.QUIET:
        say(text, stderr=True, style=style)


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes -v and -q as well, as typer reads it from the signature."""
    options = {"verbose": Verbose, "quiet": Quiet}

    @wraps(command)
    def wrapped(*args: Any, verbose: bool, quiet: bool, **kwargs: Any) -> None:
        set_level(verbose=verbose, quiet=quiet)
        command(*args, **kwargs)

    signature = inspect.signature(command, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in options.items()
    ]
    parameters = [*signature.parameters.values(), *more]
    shown: Any = wrapped  # functions have no declared __signature__
    shown.__signature__ = signature.replace(parameters=parameters)
    wrapped.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
    wrapped.__annotations__ |= options
    return wrapped
