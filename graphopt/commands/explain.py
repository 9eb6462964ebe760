"""`graphopt explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options as shared
from graphopt.commands.parameters import takes_options
from graphopt.optimizer.options import ExplainOptions


@takes_options
def explain(
    *,
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The network.")],
    chosen: Annotated[
        str,
        typer.Option("--pass", help="The pass, with options as in 'a{x=1}'.", metavar="PASS"),
    ],
    options: ExplainOptions,
    json: shared.Json = None,
) -> None:
    """Say where a pass matches a network, where it does not, and why."""
    from graphopt.display.tables import console
    from graphopt.optimizer.explain import explain as run

    found = run(model, chosen, options)
    if not shared.put_json(json, found.to_plain()):
        console().print(found)
