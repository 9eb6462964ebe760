"""`graphopt sensitivity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options as shared
from graphopt.commands.grammar import STDOUT
from graphopt.commands.parameters import After, takes_options
from graphopt.commands.progress import shown
from graphopt.optimizer.options import SensitivityOptions


@takes_options
def sensitivity(
    *,
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The network, dense.")],
    options: SensitivityOptions,
    json: Annotated[shared.Json, After("block")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the function blocks' losses over the ratio.", metavar="F.svg"),
        After("json"),
    ] = None,
) -> None:
    """Measure what pruning each layer, and each function block, does to maps and poses."""
    from graphopt.display.tables import console
    from graphopt.ir.files import replacing
    from graphopt.optimizer.sensitivity import measure_file
    from graphopt.optimizer.sensitivity_report import Shown, drawing

    # Beside the result, as optimize's; without one beside the network.
    result_file = model if json in (None, STDOUT) else Path(str(json))
    work = result_file.with_name(f"{result_file.stem}.sensitivity.work")
    with shown("reading the network") as tell:
        result = measure_file(model, options, work=work, progress=tell)
    if plot:
        with replacing(plot) as fresh:
            fresh.write_text(drawing(result), encoding="utf-8")
    if not shared.put_json(json, result.to_plain()):
        console().print(Shown(result))
