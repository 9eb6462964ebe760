"""`graphopt tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options as shared
from graphopt.commands.parameters import After, takes_options
from graphopt.commands.progress import shown
from graphopt.compiler.options import TuneOptions


@takes_options
def tune(
    *,
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The network.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.json",
            help="The tuning file; the device's own in the user's cache if left out.",
        ),
        After("target"),
    ] = None,
    options: TuneOptions,
    json: shared.Json = None,
) -> None:
    """Measure which kernels are fastest on this machine; `compile` takes them from then on.

    They are those of float32: of bytes and bfloat16, kernels are chosen by estimate.
    """
    from graphopt.compiler.tuner import tune as measure
    from graphopt.display.tables import Grid, Kind, console, say

    with shown("reading the network") as tell:
        file, results = measure(model, output, options, progress=tell)
    layers = [one.to_plain() for one in results]
    told = {"output": str(file), "target": options.target, "precision": "float32"}
    facts = {**told, "layers": layers}
    if shared.put_json(json, facts):
        return
    columns = {"layer": Kind.NAME, "layers": Kind.NUMBER, "kernel": Kind.NAME, "tile": Kind.WORDS}
    table = Grid(columns | dict.fromkeys(("group", "ms", "before"), Kind.NUMBER))
    for one in results:
        tile = "x".join(map(str, one.after.tile))
        group = str(one.after.work_group) if one.after.work_group > 1 else ""
        ms = f"{one.after.ms:.3f}", f"{one.before.ms:.3f}"
        table.add(one.layer, str(one.count), one.after.kernel, tile, group, *ms)
    console().print(table)
    before, after = (
        sum(result.count * getattr(result, which).ms for result in results)
        for which in ("before", "after")
    )
    say(f"{file}: convolutions in float32 in {after:.1f} ms instead of {before:.1f} ms")
