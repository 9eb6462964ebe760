"""`graphopt explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.commands import options as shared
from graphopt.commands.parameters import takes_options
from graphopt.commands.progress import shown
from graphopt.optimizer.options import ExplainOptions

if TYPE_CHECKING:
    from graphopt.analysis.layer_precision import BundlePrecision
    from graphopt.optimizer.explain import Explanation


@takes_options
def explain(
    *,
    model: Annotated[
        Path, typer.Argument(metavar="IN.onnx|BUNDLE", help="The network; or a bundle.")
    ],
    chosen: Annotated[
        str | None,
        typer.Option(
            "--pass",
            help="The pass, with options as in 'a{x=1}'; none for a bundle.",
            metavar="PASS",
        ),
    ] = None,
    options: ExplainOptions,
    json: shared.Json = None,
) -> None:
    """Say where a pass matches a network, where it does not, and why.

    Of a bundle: what each layer multiplies in, and why.
    """
    from graphopt.display.tables import console
    from graphopt.runtime.bundle import is_bundle

    found: BundlePrecision | Explanation
    if is_bundle(model):
        if chosen is not None or options != ExplainOptions():
            raise typer.BadParameter("a bundle is explained as it is: leave out the options")
        from graphopt.analysis.layer_precision import layer_precisions

        found = layer_precisions(model)
    elif chosen is None:
        raise typer.BadParameter("which pass? --pass NAME; graphopt passes list has them")
    else:
        from graphopt.optimizer.explain import explain as run

        with shown("reading the network") as tell:
            found = run(model, chosen, options, progress=tell)
    if not shared.put_json(json, found.to_plain()):
        console().print(found)
