"""`graphopt reproduce`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options
from graphopt.commands.progress import shown


class What(str, Enum):
    """A part of the paper."""

    table1 = "table1"
    table2 = "table2"
    fig3 = "fig3"
    postprocessing = "postprocessing"


def reproduce(
    what: Annotated[What, typer.Argument(help="Which part of Shen et al., IJCAI 2021.")],
    device: Annotated[
        str, typer.Option(help="What times are predicted for.", metavar="NAME|F.toml")
    ] = "adreno-640",
    network: Annotated[
        list[Path] | None,
        typer.Option(help="fig3: a network of yours as well; may be repeated.", metavar="IN.onnx"),
    ] = None,
    full: Annotated[
        Path | None,
        typer.Option(
            help="table2: optimise and compile each network as well; takes hours. What is done is "
            "kept in DIR, and the same command goes on from there.",
            metavar="DIR",
        ),
    ] = None,
    num_runs: Annotated[int, typer.Option(min=1, help="postprocessing: rounds.")] = 20,
    json: options.Json = None,
) -> None:
    """Put the paper's figures beside what is counted, predicted and measured here."""
    from graphopt.analysis.latency.device import load_device
    from graphopt.display.tables import console
    from graphopt.paper import reproduce as parts

    if network and what is not What.fig3:
        raise typer.BadParameter("--network goes with fig3")
    if full and what is not What.table2:
        raise typer.BadParameter("--full goes with table2")
    profile = load_device(device)
    with shown("counting") as tell:
        if full:
            from graphopt.paper.table2 import through

            result = through(full, device, tell)
        else:
            result = {
                What.table1: lambda: parts.table_1(profile, tell),
                What.table2: lambda: parts.table_2(profile, tell),
                What.fig3: lambda: parts.figure_3(profile, network or [], tell),
                What.postprocessing: lambda: parts.post_processing(num_runs, tell),
            }[what]()
    if not options.put_json(json, result.model_dump(mode="json")):
        console().print(result)
