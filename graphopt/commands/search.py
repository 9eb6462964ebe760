"""`graphopt search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options as shared
from graphopt.commands.output import Level, level
from graphopt.commands.parameters import After, takes_options
from graphopt.commands.progress import shown
from graphopt.search.options import SearchOptions


@takes_options
def search(
    *,
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The pose network.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The folder for all that is made; a stopped search goes on there. IN.search "
            "beside the network if left out.",
            metavar="DIR",
        ),
    ] = None,
    options: SearchOptions,
    json: shared.Json = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw AP over milliseconds.", metavar="F.svg"),
        After("json"),
    ] = None,
) -> None:
    """Try every lever on a pose network, and show the best for each speed.

    Smaller photos, lower precision, fewer refinement stages, pruned channels and blocks, alone and
    together: made, judged by poses on photos that nothing was fitted to, timed on this machine or
    predicted for a device. Beside each stands what a smaller photo alone would keep.
    """
    from graphopt.display.tables import console
    from graphopt.ir.files import replacing
    from graphopt.search.report import drawing
    from graphopt.search.search import search as run

    folder = output or model.with_name(f"{model.stem}.search")
    with shown("reading the network") as tell:
        result = run(model, folder, options, progress=tell)
    if plot:
        with replacing(plot) as fresh:
            fresh.write_text(drawing(result), encoding="utf-8")
    if not shared.put_json(json, result.to_plain()):
        console().print(*result.parts(verbose=level() is Level.VERBOSE), sep="\n")
