"""`graphopt eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options as shared
from graphopt.commands.parameters import After, takes_options
from graphopt.pose.options import EvalOptions


@takes_options
def eval(
    *,
    model: Annotated[Path, typer.Argument(metavar="BUNDLE|IN.onnx", help="The pose network.")],
    options: EvalOptions,
    json: Annotated[shared.Json, After("limit")] = None,
) -> None:
    """Measure COCO key-point AP on annotated photos.

    --json writes AP, AP50, AP75, AR, images and seconds.
    """
    from rich.console import Console
    from rich.progress import Progress

    from graphopt.display.tables import say
    from graphopt.pose.estimate import Estimator
    from graphopt.pose.evaluate import evaluate
    from graphopt.pose.open import open_any

    console = Console(stderr=True)
    opened, spec = open_any(model, **options.running.opening())
    # Of a bundle, compile has told them.
    for line in () if model.is_dir() else spec.guesses:
        say(line, style="dim", stderr=True)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("photos", total=None)
        scores = evaluate(
            Estimator(opened, spec, height=options.running.height),
            options.images,
            options.annotations,
            limit=options.limit,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if shared.put_json(json, scores.to_plain()):
        return
    say(
        f"AP {scores.AP:.3f}  AP50 {scores.AP50:.3f}  AP75 {scores.AP75:.3f}  AR {scores.AR:.3f}  "
        f"({scores.images} photos, {scores.seconds:.0f} s)"
    )
