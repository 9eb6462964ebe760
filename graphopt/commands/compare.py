"""`graphopt compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options
from graphopt.commands.progress import shown


def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="A bundle or an ONNX file.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="What it is compared with A.")],
    images: Annotated[Path, typer.Option(help="Folder of photos; no labels.", metavar="DIR")],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N photos, by name.")
    ] = None,
    json: options.Json = None,
    engine: options.Engine = None,
    threads: options.Threads = 0,
    height: options.Height = None,
    skeleton: options.Skeleton = None,
    maps: options.Maps = None,
    color: options.Color = None,
    mean: options.Mean = None,
    scale: options.Scale = None,
    pad_value: options.PadValue = None,
) -> None:
    """Compare the poses that two networks find in photos.

    Both see the same inputs, prepared as A wants them; distances are in pixels of the input.
    """
    from dataclasses import asdict

    from graphopt.analysis.compare import compare_files
    from graphopt.display.tables import say
    from graphopt.pose.spec import choices

    with shown("reading the networks") as tell:
        change = compare_files(
            before,
            after,
            images,
            limit=limit,
            engine=engine,
            threads=threads,
            height=height,
            progress=lambda done, total: tell(f"photos: {done} of {total}"),
            **choices(skeleton, color, mean, scale, pad_value, maps),
        )
    if not options.put_json(json, asdict(change)):
        say(f"{change.images} photos: {change}")
        say(f"outputs differ by {change.error:.3f} of their deviation")
