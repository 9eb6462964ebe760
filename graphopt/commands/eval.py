"""`graphopt eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options


def eval(
    model: Annotated[Path, typer.Argument(metavar="BUNDLE|IN.onnx", help="The pose network.")],
    images: Annotated[Path, typer.Option(help="Folder of the photos.", metavar="DIR")],
    annotations: Annotated[
        Path, typer.Option(help="COCO key-point annotations.", metavar="F.json")
    ],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N photos, by image id.")
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
    """Measure COCO key-point AP on annotated photos.

    --json writes AP, AP50, AP75, AR, images and seconds.
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress

    from graphopt.display.tables import say
    from graphopt.pose.estimate import Estimator
    from graphopt.pose.evaluate import evaluate
    from graphopt.pose.open import open_engine
    from graphopt.pose.spec import choices

    console = Console(stderr=True)
    opened, spec = open_engine(
        model,
        engine=engine,
        threads=threads,
        **choices(skeleton, color, mean, scale, pad_value, maps),
    )
    # Of a bundle, compile has told them.
    for line in () if model.is_dir() else spec.guesses:
        say(line, style="dim", stderr=True)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("photos", total=None)
        scores = evaluate(
            Estimator(opened, spec, height=height),
            images,
            annotations,
            limit=limit,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if options.put_json(json, asdict(scores)):
        return
    say(
        f"AP {scores.AP:.3f}  AP50 {scores.AP50:.3f}  AP75 {scores.AP75:.3f}  AR {scores.AR:.3f}  "
        f"({scores.images} photos, {scores.seconds:.0f} s)"
    )
