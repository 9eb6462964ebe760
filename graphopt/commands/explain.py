"""`graphopt explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options


def explain(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The network.")],
    chosen: Annotated[
        str,
        typer.Option("--pass", help="The pass, with options as in 'a{x=1}'.", metavar="PASS"),
    ],
    node: Annotated[
        str | None, typer.Option(help="Only this node, by its name or an output's.", metavar="NAME")
    ] = None,
    after: Annotated[
        str, typer.Option(help="Passes to run before: 'a, b'.", metavar="PIPELINE")
    ] = "",
    load: options.Load = None,
    input_shape: options.InputShape = None,
    json: options.Json = None,
) -> None:
    """Say where a pass matches a network, where it does not, and why."""
    from dataclasses import asdict

    from graphopt.display.tables import console
    from graphopt.ir.input_shapes import parse_input_shapes
    from graphopt.optimizer.explain import explain as run

    found = run(
        model,
        chosen,
        node=node,
        after=after,
        load=load or [],
        input_shapes=parse_input_shapes(input_shape or []),
    )
    if not options.put_json(json, asdict(found)):
        console().print(found)
