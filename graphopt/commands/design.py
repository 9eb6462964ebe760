"""`graphopt design`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options as shared
from graphopt.commands.parameters import takes_options
from graphopt.commands.progress import shown
from graphopt.paper.options import DesignOptions


@takes_options
def design(
    *,
    options: DesignOptions,
    build: Annotated[
        int | None, typer.Option(help="Write the network of this depth.", metavar="DEPTH")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to.", metavar="OUT.onnx")
    ] = None,
    json: shared.Json = None,
) -> None:
    """Show how wide a network may be at each depth, for the same number of multiply-adds."""
    from graphopt.analysis.latency.device import load_device
    from graphopt.display.tables import console, say
    from graphopt.ir.onnx_io import save_model
    from graphopt.paper.design import design as run
    from graphopt.paper.design import make

    if (build is None) != (output is None):
        raise typer.BadParameter("--build and -o go together")
    try:
        wanted = [int(depth) for depth in options.depths.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--depths {options.depths}: write 24,36") from None
    wanted += [build] if build is not None and build not in wanted else []
    with shown("searching") as tell:
        profile = load_device(options.device)
        result = run(
            options.backbone,
            wanted,
            options.gmacs,
            profile,
            refinements=options.refinements,
            progress=tell,
        )
    if not shared.put_json(json, result.to_plain()):
        console().print(result)
    if output is not None:
        (row,) = (row for row in result.rows if row.depth == build)
        save_model(make(options.backbone, row), output)
        say(f"{output}: depth {row.depth}, width {row.width}; weights are random", stderr=True)
