"""The command line: wiring only.

A command is a module of `graphopt.commands` that defines one function of the same name; its
signature is its options and its docstring the help text. Those modules import nothing heavy until
they run, which keeps `graphopt --help` quick (a test watches it).
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
import traceback
from typing import Annotated, NoReturn

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


_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Of the operating system's errors those that may come anywhere."""

_PLAIN = {"…": "...", "–": "-", "—": "-", "→": "->", "×": "x", "│": "|"}
"""What is printed instead of characters that a terminal or a pipe cannot take; else ?."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    unknown = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in unknown), error.end


def _print_anywhere() -> None:
    """Let no character stop a command: PYTHONIOENCODING and locales may know few."""
    codecs.register_error("graphopt", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="graphopt")


def _end(text: str, code: int) -> NoReturn:
    """Say what is wrong, in a sentence; with the whole way there if GRAPHOPT_TRACEBACK is set."""
    if os.environ.get("GRAPHOPT_TRACEBACK"):
        traceback.print_exc()
    typer.secho(f"graphopt: {text}", err=True, fg=typer.colors.RED)
    sys.exit(code)


def main() -> None:
    """Run the command line; what goes wrong becomes a sentence and an exit code."""
    _print_anywhere()
    try:
        app()
    except GraphoptError as error:
        _end(str(error), error.exit_code)
    except MemoryError:
        _end("memory ran out\n  hint: a smaller input or fewer photos may fit", 1)
    except KeyboardInterrupt as interrupt:
        left = str(interrupt) or "nothing half-written was left behind"
        _end(f"interrupted; {left}", 130)
    except BrokenPipeError:
        # The reader of our output went away (`graphopt inspect … | head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = f" at {error.filename}" if error.filename else ""
        _end(f"{error.strerror}{where}\n  hint: make room, or set TMPDIR to where there is more", 1)
