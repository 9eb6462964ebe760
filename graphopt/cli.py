"""The command line: wiring only.

A command is a module of `graphopt.commands` that defines one function of the same name; its
signature is its options and its docstring the help text. Those modules import nothing heavy until
they run, which keeps `graphopt --help` quick (a test watches it).
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from graphopt import commands
from graphopt.commands.grammar import Command
from graphopt.errors import GraphoptError

app = typer.Typer(
    name="graphopt",
    help="Make multi-person pose networks fast on phones: photo in, poses out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in commands.ALL:
    app.command(cls=Command)(command)
app.add_typer(commands.passes_app, name="passes")
app.add_typer(commands.android_app, name="android")
app.add_typer(commands.zoo_app, name="zoo")


def _print_version(wanted: bool) -> None:
    if wanted:
        from graphopt import __version__

        typer.echo(f"graphopt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Make multi-person pose networks fast on phones: photo in, poses out."""


def main() -> None:
    """Run the command line; a `GraphoptError` becomes a sentence and an exit code."""
    try:
        app()
    except GraphoptError as error:
        if os.environ.get("GRAPHOPT_TRACEBACK"):
            raise
        typer.secho(f"graphopt: {error}", err=True, fg=typer.colors.RED)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as interrupt:
        left = str(interrupt) or "nothing half-written was left behind"
        typer.echo(f"graphopt: interrupted; {left}", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`graphopt inspect … | head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
