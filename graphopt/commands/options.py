"""Options that several commands share and no configuration file sets: where, and in which form."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands.grammar import STDOUT
from graphopt.errors import UsageError
from graphopt.ir.files import replacing

Json = Annotated[
    str | None,
    typer.Option(
        "--json", help="Print JSON instead, or write it to a file besides.", metavar="[F.json|-]"
    ),
]


def _device(name: str) -> str:
    if name != "local" and name.partition(":")[0] != "adb":
        raise UsageError(f"there is no device {name!r}", hint="local, adb, or adb:SERIAL")
    return name


Device = Annotated[
    str,
    typer.Option(
        callback=_device,
        help="local: this machine; adb: the phone that adb sees, adb:SERIAL one of several.",
        metavar="local|adb[:SERIAL]",
    ),
]
Runner = Annotated[
    Path | None,
    typer.Option(
        help="The graphopt-run for --device adb; else the Android NDK builds it.",
        envvar="GRAPHOPT_RUNNER",
        show_envvar=True,
    ),
]


def put_json(where: str | None, value: object) -> bool:
    """Print a value as JSON, or write it to a file, whole or not at all; as `--json` says.

    Args:
        where: `-` is stdout; without it nothing is done.
        value: of what `json` knows.

    Returns:
        Whether it was printed: then stdout is for programs, and for nothing else.

    Raises:
        InputError: the file cannot be written.
    """
    import json

    if where is None:
        return False
    text = json.dumps(value, indent=2)
    if where == STDOUT:
        typer.echo(text)
        return True
    with replacing(Path(where)) as fresh:
        fresh.write_text(text + "\n", encoding="utf-8")
    return False


def not_on_a_phone(context: typer.Context, *names: str) -> None:
    """Refuse options that were given and have no meaning with --device adb.

    Raises:
        InputError: names them.
    """
    given = _flags(name for name in names if _was_given(context, name))
    if given:
        raise UsageError(
            f"{given}: a phone runs a bundle as it was compiled, and nothing else",
            hint="leave it out with --device adb",
        )


def goes_with(context: typer.Context, mode: str, *names: str) -> None:
    """Refuse options that were given but are not among `names`, all that the option `mode` allows.

    Raises:
        BadParameter: names them.
    """
    options = (p.name for p in context.command.params if p.param_type_name == "option" and p.name)
    others = (name for name in options if name not in (mode, *names) and _was_given(context, name))
    if given := _flags(others):
        raise typer.BadParameter(f"{_flags([mode])} goes with {_flags(names)}, not with {given}")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _flags(names: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)
