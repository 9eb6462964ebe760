"""The command line: wiring only.

A command is a module of `graphopt.commands` that defines one function of the same name; its
docstring is the help text. Its options are the fields of a dataclass, which stands beside the plain
function that it is for, and the parameters that say what is read and written. Those modules import
nothing heavy until they run, which keeps `graphopt --help` quick (a test watches it).
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
from graphopt.commands.help import COMMANDS, Command, epilog
from graphopt.commands.output import Quiet, Verbose, set_level, with_verbosity
from graphopt.errors import GraphoptError

app = typer.Typer(
    name="graphopt",
    help="Make multi-person pose networks fast on phones: photo in, poses out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example:\n\n"
    "graphopt optimize pose.onnx\n\n"
    "graphopt compile pose.opt.onnx -o pose.graphopt\n\n"
    "graphopt run pose.graphopt photo.jpg -o poses.png",
)
for panel, names in COMMANDS.items():
    for name in names:
        if isinstance(entry := commands.ALL[name], typer.Typer):
            app.add_typer(entry, name=name, rich_help_panel=panel)
            for inner in entry.registered_commands:
                inner.cls, inner.epilog = Command, epilog(f"{name} {inner.name}")
                if inner.callback is not None:
                    inner.callback = with_verbosity(inner.callback)
        else:
            app.command(cls=Command, rich_help_panel=panel, epilog=epilog(name))(
                with_verbosity(entry)
            )


def _print_version(wanted: bool) -> None:
    if wanted:
        from graphopt import __version__

        typer.echo(f"graphopt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Make multi-person pose networks fast on phones: photo in, poses out."""
    set_level(verbose=verbose, quiet=quiet, anew=True)


def _complain(text: str) -> None:
    """An error on stderr: wrapped between words on a terminal, in a log as it is."""
    from graphopt.display.tables import say

    for line in text.splitlines():
        say(line, stderr=True, style="red")


_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of the operating system that may come anywhere."""

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
    _complain(f"graphopt: {text}")
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
