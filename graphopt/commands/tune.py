"""`graphopt tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options
from graphopt.commands.progress import shown


def tune(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The network.")],
    target: Annotated[
        str, typer.Option(help="Whose kernels: cpu or opencl, as in compile.")
    ] = "cpu",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.json",
            help="The tuning file; the device's own in the user's cache if left out.",
        ),
    ] = None,
    input_shape: options.InputShape = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; the physical cores if left out.")
    ] = None,
    json: options.Json = None,
) -> None:
    """Measure which kernels are fastest on this machine; `compile` takes them from then on."""
    from rich.console import Console
    from rich.table import Table

    from graphopt.model import parse_input_shapes
    from graphopt.tune import tune as measure

    with shown("reading the network") as tell:
        file, results = measure(
            model,
            target=target,
            output=output,
            input_shapes=parse_input_shapes(input_shape or []),
            threads=threads,
            progress=tell,
        )
    layers = [
        {"layer": one.layer, "count": one.count}
        | {"before": one.before.model_dump(), "after": one.after.model_dump()}
        for one in results
    ]
    if options.put_json(json, {"output": str(file), "target": target, "layers": layers}):
        return
    table = Table("layer", "layers", "kernel", "tile", "group", "ms", "before", box=None)
    for one in results:
        tile = "x".join(map(str, one.after.tile))
        group = str(one.after.work_group) if one.after.work_group > 1 else ""
        ms = f"{one.after.ms:.3f}", f"{one.before.ms:.3f}"
        table.add_row(one.layer, str(one.count), one.after.kernel, tile, group, *ms)
    Console().print(table)
    before, after = (
        sum(result.count * getattr(result, which).ms for result in results)
        for which in ("before", "after")
    )
    typer.echo(f"{file}: convolutions in {after:.1f} ms instead of {before:.1f} ms")
