"""`graphopt reproduce`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options as shared
from graphopt.commands.parameters import After, takes_options
from graphopt.commands.progress import shown
from graphopt.paper.options import ReproduceOptions


class What(str, Enum):
    """A part of the paper."""

    table1 = "table1"
    table2 = "table2"
    fig3 = "fig3"
    postprocessing = "postprocessing"


@takes_options
def reproduce(
    *,
    what: Annotated[What, typer.Argument(help="Which part of Shen et al., IJCAI 2021.")],
    options: ReproduceOptions,
    full: Annotated[
        Path | None,
        typer.Option(
            help="table2: optimise and compile each network as well; takes hours. What is done is "
            "kept in DIR, and the same command goes on from there.",
            metavar="DIR",
        ),
        After("network"),
    ] = None,
    json: shared.Json = None,
) -> None:
    """Put the paper's figures beside what is counted, predicted and measured here."""
    from graphopt.analysis.latency.device import load_device
    from graphopt.display.tables import console
    from graphopt.paper import reproduce as parts

    if options.network and what is not What.fig3:
        raise typer.BadParameter("--network goes with fig3")
    if full and what is not What.table2:
        raise typer.BadParameter("--full goes with table2")
    profile = load_device(options.device)
    with shown("counting") as tell:
        if full:
            from graphopt.paper.table2 import through

            result = through(full, options.device, tell)
        else:
            result = {
                What.table1: lambda: parts.table_1(profile, tell),
                What.table2: lambda: parts.table_2(profile, tell),
                What.fig3: lambda: parts.figure_3(profile, options.network, tell),
                What.postprocessing: lambda: parts.post_processing(options.num_runs, tell),
            }[what]()
    if not shared.put_json(json, result.to_plain()):
        console().print(result)
