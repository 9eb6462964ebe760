"""`graphopt inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.analysis.options import InspectOptions
from graphopt.commands import options as shared
from graphopt.commands.parameters import takes_options


@takes_options
def inspect(
    *,
    model: Annotated[Path, typer.Argument(metavar="IN", help="The network, or a bundle.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="[IN2]", help="A second one to compare with.")
    ] = None,
    options: InspectOptions,
    json: shared.Json = None,
) -> None:
    """Show a network layer by layer, what differs between two, or where a bundle's layers run."""
    from graphopt.analysis.inspection import Comparison, inspect_models
    from graphopt.analysis.latency.device import load_device
    from graphopt.display.tables import console
    from graphopt.ir.input_shapes import parse_input_shapes
    from graphopt.runtime.bundle import is_bundle

    if is_bundle(model):
        if other or options != InspectOptions():
            raise typer.BadParameter("a bundle is inspected alone: its size and target are fixed")
        from graphopt.analysis.placement import placement

        steps = placement(model)
        if not shared.put_json(json, steps.to_plain()):
            console().print(steps)
        return
    paths = [model] if other is None else [model, other]
    profile = load_device(options.device) if options.device else None
    a, *b = inspect_models(paths, parse_input_shapes(options.input_shape), profile)
    shown = Comparison.of(a, b[0]) if b else a
    if not shared.put_json(json, shown.to_plain()):
        console().print(shown)
