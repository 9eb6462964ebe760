"""`graphopt design`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options
from graphopt.commands.progress import shown


def design(
    gmacs: Annotated[
        float, typer.Option(min=0.1, help="10^9 multiply-adds at 368x368.", metavar="G")
    ],
    depths: Annotated[
        str, typer.Option(help="Convolutions of the backbone.", metavar="A,B")
    ] = "24,36,72,147",
    backbone: Annotated[str, typer.Option(help="What is made deeper: resnet50.")] = "resnet50",
    refinements: Annotated[
        int, typer.Option(min=0, max=6, help="Stages after the initial one.", metavar="N")
    ] = 1,
    device: Annotated[
        str, typer.Option(help="What times are predicted for.", metavar="NAME|F.toml")
    ] = "adreno-640",
    build: Annotated[
        int | None, typer.Option(help="Write the network of this depth.", metavar="DEPTH")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to.", metavar="OUT.onnx")
    ] = None,
    json: options.Json = None,
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
        wanted = [int(depth) for depth in depths.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--depths {depths}: write 24,36") from None
    wanted += [build] if build is not None and build not in wanted else []
    with shown("searching") as tell:
        profile = load_device(device)
        result = run(backbone, wanted, gmacs, profile, refinements=refinements, progress=tell)
    if not options.put_json(json, result.model_dump(mode="json")):
        console().print(result)
    if output is not None:
        (row,) = (row for row in result.rows if row.depth == build)
        save_model(make(backbone, row), output)
        say(f"{output}: depth {row.depth}, width {row.width}; weights are random", stderr=True)
