"""`graphopt run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.commands import options
from graphopt.commands.grammar import STDOUT
from graphopt.commands.progress import shown


def run(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="BUNDLE|IN.onnx", help="The pose network.")],
    photos: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTO...",
            help="Photos, folders, videos; URLs of them; - for a photo on stdin; camera:0.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Picture with the poses drawn; a folder for several. If left out, PHOTO.poses.png "
            "here for one photo, without --json.",
        ),
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
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out people with a lower score.")
    ] = 0.0,
    track: Annotated[
        bool, typer.Option("--track", help="Follow people from frame to frame of a video.")
    ] = False,
    smooth: Annotated[
        bool, typer.Option("--smooth", help="Besides, keep their key points from trembling.")
    ] = False,
    each: Annotated[bool, typer.Option("--each", help="A line for each frame of a video.")] = False,
    device: options.Device = "local",
    runner: options.Runner = None,
) -> None:
    """Find the people in photos, folders of photos, videos, and before cameras (until Ctrl-C).

    --json gives a list with image, width, height, people and skeleton for each photo; a person is
    a score 0..1 and key points in the skeleton's order: x and y in photo pixels (the centre of the
    first pixel is 0, 0) and a score; all zero where a part was not found. With --track or --smooth,
    a person also has an id: the same for the same person in all frames of a video.

    With --device adb, a bundle runs on a phone; milliseconds are its own, without the way there.
    """
    from contextlib import ExitStack

    from rich.console import Console

    from graphopt.display.tables import say
    from graphopt.pose.decode_options import DecodeOptions
    from graphopt.pose.estimate import Estimator, FindsPeople, Job, Tracking, VideoSummary
    from graphopt.pose.images import usual_picture
    from graphopt.pose.open import open_engine
    from graphopt.pose.sources import fetched
    from graphopt.pose.spec import choices

    console = Console(stderr=True)
    tracking: Tracking = "smooth" if smooth else "track" if track else "off"
    to_stdout = json == STDOUT
    found: list[dict[str, Any]] = []
    videos: dict[str, VideoSummary] = {}
    skipped = 0
    with ExitStack() as stack:
        with shown("reading") as tell:
            sources = stack.enter_context(fetched(photos, tell))
        if output is None and json is None:
            output = usual_picture(sources.paths)
        file = Path(json) if json and not to_stdout else None
        job = Job.plan(sources.paths, output, file, tracking, sources.names)
        estimator: FindsPeople
        if device == "local":
            opened, spec = open_engine(
                model,
                engine=engine,
                threads=threads,
                **choices(skeleton, color, mean, scale, pad_value, maps),
            )
            estimator = Estimator(opened, spec, DecodeOptions(min_score=min_score), height)
        else:
            from graphopt.devices.phone import estimator_on_phone

            fixed = ("engine", "height", "skeleton", "maps", "color", "mean", "scale", "pad_value")
            options.not_on_a_phone(context, *fixed)
            with shown("looking for a phone") as tell:
                opening = estimator_on_phone(
                    model,
                    device,
                    runner=runner,
                    threads=threads,
                    min_score=min_score,
                    progress=tell,
                )
                estimator = stack.enter_context(opening)
        # Of a bundle, compile has told them.
        for line in () if model.is_dir() else estimator.spec.guesses:
            say(line, style="dim", stderr=True)
        for result in job.run(estimator, console):
            if result is None:
                skipped += 1
                continue
            for warning in result.poses.warnings:
                say(f"{result.image}: {warning}", style="yellow", stderr=True)
            if to_stdout:
                found.append(result.to_json(estimator.spec.skeleton))
            if result.video:
                videos.setdefault(result.video, VideoSummary(result.video)).add(result)
            if each or not result.video:
                count = len(result.poses.people)
                typer.echo(
                    f"{result.image}: {count} {'person' if count == 1 else 'people'}, "
                    f"{result.milliseconds:.0f} ms",
                    err=to_stdout,
                )
    for summary in videos.values():
        say(str(summary), stderr=to_stdout)
    if to_stdout:
        options.put_json(json, found)
    if skipped:
        say(f"skipped {skipped} files that are no photos", style="dim", stderr=True)
    if output is not None:
        say(f"{output}: the poses drawn", stderr=True)
