"""`graphopt run`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.commands import options as shared
from graphopt.commands.grammar import STDOUT
from graphopt.commands.parameters import takes_options
from graphopt.commands.progress import shown
from graphopt.pose.options import RunOptions

if TYPE_CHECKING:
    from graphopt.pose.estimate import FindsPeople, Result, VideoSummary
    from graphopt.pose.skeleton import Skeleton


@takes_options
def run(
    *,
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
    json: shared.Json = None,
    options: RunOptions,
    raw: Annotated[
        Path | None,
        typer.Option(
            help="Write the network's outputs to F.npz, whatever they mean, and nothing else.",
            metavar="F.npz",
        ),
    ] = None,
    device: shared.Device = "local",
    runner: shared.Runner = None,
) -> None:
    """Find the people in photos, folders of photos, videos, and before cameras (until Ctrl-C).

    --json gives a list with image, width, height, people and skeleton for each photo; a person is
    a score 0..1 and key points in the skeleton's order: x and y in photo pixels (the centre of the
    first pixel is 0, 0) and a score; all zero where a part was not found. With --track or --smooth,
    a person also has an id: the same for the same person in all frames of a video.

    With --device adb, a bundle runs on a phone; milliseconds are its own, without the way there.
    """
    from rich.console import Console

    from graphopt.display.tables import say
    from graphopt.pose.estimate import Job
    from graphopt.pose.images import usual_picture
    from graphopt.pose.sources import fetched

    if raw is not None:
        shared.goes_with(context, "raw", *_RAW)
        _write_raw(model, photos, raw, options)
        return
    to_stdout = json == STDOUT
    with ExitStack() as stack:
        with shown("reading") as tell:
            sources = stack.enter_context(fetched(photos, tell))
        if output is None and json is None:
            output = usual_picture(sources.paths)
        file = Path(json) if json and not to_stdout else None
        job = Job.plan(sources.paths, output, file, options.tracking, sources.names)
        estimator = _opened(context, stack, model, device, runner, options)
        told = _Told(estimator.spec.skeleton, to_stdout, options.each)
        for result in job.run(estimator, Console(stderr=True)):
            told.take(result)
    told.end()
    if output is not None:
        say(f"{output}: the poses drawn", stderr=True)


def _opened(
    context: typer.Context,
    stack: ExitStack,
    model: Path,
    device: str,
    runner: Path | None,
    options: RunOptions,
) -> FindsPeople:
    """The network, ready for photos here or on a phone; what was guessed of it is told."""
    from graphopt.display.tables import say

    if device == "local":
        estimator = _here(model, options)
    else:
        shared.not_on_a_phone(context, *_FIXED)
        estimator = _on_phone(stack, model, device, runner, options)
    # Of a bundle, compile has told them.
    for line in () if model.is_dir() else estimator.spec.guesses:
        say(line, style="dim", stderr=True)
    return estimator


def _here(model: Path, options: RunOptions) -> FindsPeople:
    from graphopt.errors import UsageError
    from graphopt.pose.boxes import InBoxes, padding_of, read_boxes
    from graphopt.pose.decode_options import DecodeOptions
    from graphopt.pose.estimate import Estimator
    from graphopt.pose.open import open_any

    running = options.running
    opened, spec = open_any(model, **running.opening())
    chosen = DecodeOptions(min_score=options.min_score)
    estimator = Estimator(opened, spec, chosen, running.height)
    if options.boxes is None:
        return estimator
    if padding_of(spec) is None:
        raise UsageError("--boxes: the network finds its people itself", hint="leave it out")
    return InBoxes(estimator, read_boxes(options.boxes))


_VIEW = ("skeleton", "maps", "head", "color", "mean", "scale", "pad_value")
_FIXED = ("engine", "height", "boxes", *_VIEW)
"""Options that a phone has no use for."""
_RAW = ("engine", "threads", "height", *_VIEW, "quiet", "verbose")
"""Options that --raw goes with."""


def _write_raw(model: Path, photos: Sequence[str], file: Path, options: RunOptions) -> None:
    from graphopt.display.tables import say
    from graphopt.pose.raw import write_outputs
    from graphopt.pose.sources import fetched

    running = options.running
    with shown("reading") as tell, fetched(list(photos), tell) as sources:
        names = write_outputs(
            model,
            sources.paths,
            file,
            engine=running.engine,
            threads=running.threads,
            height=running.height,
            choices=running.pose.choices(),
        )
    say(f"{file}: {', '.join(names)}", stderr=True)


def _on_phone(
    stack: ExitStack, model: Path, device: str, runner: Path | None, options: RunOptions
) -> FindsPeople:
    from graphopt.devices.phone import estimator_on_phone

    with shown("looking for a phone") as tell:
        opening = estimator_on_phone(
            model,
            device,
            runner=runner,
            threads=options.running.threads,
            min_score=options.min_score,
            progress=tell,
        )
        return stack.enter_context(opening)


@dataclass
class _Told:
    """What was found, told line by line, or in the end as JSON on stdout.

    Args:
        skeleton: of the people.
        to_stdout: whether stdout is for JSON.
        each: whether every frame of a video has a line.
    """

    skeleton: Skeleton
    to_stdout: bool
    each: bool
    found: list[dict[str, Any]] = field(default_factory=list)
    videos: dict[str, VideoSummary] = field(default_factory=dict)
    skipped: int = 0

    def take(self, result: Result | None) -> None:
        """Print what was found in a photo or frame; None stands for a file that is not a photo."""
        from graphopt.display.tables import say
        from graphopt.pose.estimate import VideoSummary

        if result is None:
            self.skipped += 1
            return
        for warning in result.poses.warnings:
            say(f"{result.image}: {warning}", style="yellow", stderr=True)
        if self.to_stdout:
            self.found.append(result.to_json(self.skeleton))
        if result.video:
            self.videos.setdefault(result.video, VideoSummary(result.video)).add(result)
        if self.each or not result.video:
            count = len(result.poses.people)
            typer.echo(
                f"{result.image}: {count} {'person' if count == 1 else 'people'}, "
                f"{result.milliseconds:.0f} ms",
                err=self.to_stdout,
            )

    def end(self) -> None:
        """Tell what is known only now."""
        from graphopt.display.tables import say

        for summary in self.videos.values():
            say(str(summary), stderr=self.to_stdout)
        if self.to_stdout:
            shared.put_json(STDOUT, self.found)
        if self.skipped:
            say(f"skipped {self.skipped} files that are no photos", style="dim", stderr=True)
