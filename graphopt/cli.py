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
    from graphopt.tables import say

    for line in text.splitlines():
        say(line, stderr=True, style="red")


def main() -> None:
    """Run the command line; a `GraphoptError` becomes a sentence and an exit code."""
    try:
        app()
    except GraphoptError as error:
        if os.environ.get("GRAPHOPT_TRACEBACK"):
            raise
        _complain(f"graphopt: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt as interrupt:
        left = str(interrupt) or "nothing half-written was left behind"
        typer.echo(f"graphopt: interrupted; {left}", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`graphopt inspect … | head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
