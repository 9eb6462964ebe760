"""`graphopt optimize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options as shared
from graphopt.commands.output import Level, level
from graphopt.commands.parameters import takes_options
from graphopt.commands.progress import shown
from graphopt.optimizer.options import OptimizeOptions


@takes_options
def optimize(
    *,
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The network.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The result; IN.opt.onnx beside the input if left out."
        ),
    ] = None,
    options: OptimizeOptions,
    report: Annotated[
        Path | None,
        typer.Option(help="As --json F.json, written together with the network.", metavar="F.json"),
    ] = None,
    json: shared.Json = None,
    dump_dir: Annotated[
        Path | None,
        typer.Option(
            help="An empty folder for the network after each pass: 00-input.onnx, 01-PASS.onnx …",
            metavar="DIR",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Allow -o to be the input.")] = False,
) -> None:
    """Rewrite a network pass by pass, each checked against the original."""
    from graphopt.display.tables import console, say
    from graphopt.optimizer.optimize import optimize as run

    with shown("reading the network") as tell:
        result = run(
            model,
            output,
            options,
            report=report,
            dump_dir=dump_dir,
            force=force,
            progress=tell,
        )
    if shared.put_json(json, result.to_plain()):
        return
    first, then = result.verdict()
    say(first, style="bold")
    say(then, style="green")
    if level() > Level.QUIET:
        console().print(*result.parts(verbose=level() is Level.VERBOSE), sep="\n")
