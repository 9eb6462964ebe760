"""`graphopt optimize`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from graphopt.commands import options
from graphopt.commands.output import Level, level
from graphopt.commands.progress import shown


class Verify(str, Enum):
    """When to compare with the original network."""

    each = "each"
    end = "end"
    off = "off"


class OnFail(str, Enum):
    """What a failed comparison does."""

    stop = "stop"
    revert = "revert"
    bisect = "bisect"
    warn = "warn"


def optimize(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The network.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The result; IN.opt.onnx beside the input if left out."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="A ready-made pipeline: exact, or mobile (default): all that is predicted to pay."
        ),
    ] = None,
    passes: Annotated[
        str | None,
        typer.Option(
            help="A pipeline such as 'a{x=1}, b'; it follows the preset if both are given."
        ),
    ] = None,
    skip_passes: Annotated[
        str, typer.Option(help="Passes of the pipeline to leave out: a,b.", metavar="A,B")
    ] = "",
    load: options.Load = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            help="An input's size, where it is dynamic, with NAME: if there are several; else the "
            "usual one, which compile takes. dynamic: the result takes any.",
            metavar="[NAME:]1,3,H,W|dynamic",
        ),
    ] = None,
    verify: Annotated[
        Verify,
        typer.Option(help="Compare with the original after each pass, at the end, or never."),
    ] = Verify.each,
    on_fail: Annotated[
        OnFail,
        typer.Option(
            help="If a comparison fails: stop, take the pass back, find and take back those of its "
            "changes that are to blame, or only warn."
        ),
    ] = OnFail.stop,
    device: Annotated[
        str | None,
        typer.Option(
            help="What it is to be fast on: adreno-640 (default), another profile, or a file.",
            metavar="NAME",
        ),
    ] = None,
    calib: Annotated[
        Path | None,
        typer.Option(
            help="Photos, no labels: weights are fitted on them, and poses compared.", metavar="DIR"
        ),
    ] = None,
    calib_photos: options.CalibPhotos = 1000,
    max_shift: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="How far key points may move in the mean on held-out photos, in input pixels.",
            metavar="PIXELS",
        ),
    ] = None,
    compression: Annotated[
        float | None,
        typer.Option(min=1, help="Prune to so many times fewer multiply-adds.", metavar="TIMES"),
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(min=1, help="Prune until so many times faster on --device.", metavar="TIMES"),
    ] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option(min=0, help="Prune to a predicted time on --device.", metavar="MS"),
    ] = None,
    max_ap_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Prune as far as poses stay this close: 1 - OKS to the original's, which stands "
            "in for AP where there are no labels.",
            metavar="DROP",
        ),
    ] = None,
    sensitivity: Annotated[
        Path | None,
        typer.Option(
            help="For pruning: what `graphopt sensitivity --json` wrote; else it is measured.",
            metavar="F.json",
        ),
    ] = None,
    distill: Annotated[
        bool, typer.Option("--distill", help="Train the result against the original; slow.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="As --json F.json, written together with the network.", metavar="F.json"),
    ] = None,
    json: options.Json = None,
    force: Annotated[bool, typer.Option("--force", help="Allow -o to be the input.")] = False,
    skeleton: options.Skeleton = None,
    maps: options.Maps = None,
    color: options.Color = None,
    mean: options.Mean = None,
    scale: options.Scale = None,
    pad_value: options.PadValue = None,
) -> None:
    """Rewrite a network pass by pass, each checked against the original."""
    from graphopt.display.tables import console, say
    from graphopt.ir.input_shapes import parse_input_shapes
    from graphopt.optimizer.optimize import optimize as run
    from graphopt.optimizer.prune_to_target import Goal
    from graphopt.pose.spec import choices

    any_size = input_shape == ["dynamic"]
    goals = {
        Goal.COMPRESSION: compression,
        Goal.SPEEDUP: speedup,
        Goal.LATENCY: latency_ms,
        Goal.LOSS: max_ap_drop,
    }
    with shown("reading the network") as tell:
        result = run(
            model,
            output,
            preset=preset,
            passes=passes,
            distill=distill,
            skip_passes=[name.strip() for name in skip_passes.split(",") if name.strip()],
            load=load or [],
            input_shapes=parse_input_shapes([] if any_size else input_shape or []),
            any_size=any_size,
            verify=verify.value,
            on_fail=on_fail.value,
            calib=calib,
            calib_photos=calib_photos,
            max_shift=max_shift,
            prune={goal: value for goal, value in goals.items() if value is not None},
            sensitivity=sensitivity,
            device=device,
            pose=choices(skeleton, color, mean, scale, pad_value, maps),
            report=report,
            force=force,
            progress=tell,
        )
    if options.put_json(json, result.model_dump(mode="json")):
        return
    first, then = result.verdict()
    say(first, style="bold")
    say(then, style="green")
    if level() > Level.QUIET:
        console().print(*result.parts(verbose=level() is Level.VERBOSE), sep="\n")
