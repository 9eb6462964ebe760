"""`graphopt sensitivity`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options
from graphopt.commands.grammar import STDOUT
from graphopt.commands.progress import shown


class Extent(str, Enum):
    """Filters x channels of a block."""

    four_by_four = "4x4"
    eight_by_four = "8x4"
    sixteen_by_four = "16x4"
    sixteen_by_one = "16x1"
    eight_by_one = "8x1"


def sensitivity(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The network, dense.")],
    calib: Annotated[
        Path,
        typer.Option(help="Photos, no labels: to fit on, and others to judge by.", metavar="DIR"),
    ],
    calib_photos: options.CalibPhotos = 50,
    ratio: Annotated[
        list[float] | None,
        typer.Option(
            min=0.01,
            max=0.99,
            help="Part of a layer's blocks that goes; may be repeated (0.25, 0.5, 0.7 and 0.85).",
        ),
    ] = None,
    block: Annotated[
        Extent, typer.Option(help="Filters x channels of a block.")
    ] = Extent.sixteen_by_one,
    json: options.Json = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the function blocks' losses over the ratio.", metavar="F.svg"),
    ] = None,
    input_shape: options.InputShape = None,
    skeleton: options.Skeleton = None,
    maps: options.Maps = None,
    color: options.Color = None,
    mean: options.Mean = None,
    scale: options.Scale = None,
    pad_value: options.PadValue = None,
) -> None:
    """Measure what pruning each layer, and each function block, does to maps and poses."""
    from graphopt.display.tables import console
    from graphopt.ir.files import replacing
    from graphopt.ir.input_shapes import parse_input_shapes
    from graphopt.optimizer.sensitivity import RATIOS, measure_file
    from graphopt.optimizer.sensitivity_report import Shown, drawing
    from graphopt.pose.spec import choices

    # Beside the result, as optimize's; without one beside the network.
    result_file = model if json in (None, STDOUT) else Path(str(json))
    work = result_file.with_name(f"{result_file.stem}.sensitivity.work")
    with shown("reading the network") as tell:
        result = measure_file(
            model,
            calib,
            count=calib_photos,
            ratios=sorted(set(ratio or RATIOS)),
            block=block.value,
            input_shapes=parse_input_shapes(input_shape or []),
            work=work,
            progress=tell,
            **choices(skeleton, color, mean, scale, pad_value, maps),
        )
    if plot:
        with replacing(plot) as fresh:
            fresh.write_text(drawing(result), encoding="utf-8")
    if not options.put_json(json, result.model_dump(mode="json")):
        console().print(Shown(result))
