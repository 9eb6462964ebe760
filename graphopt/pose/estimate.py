"""Photo in, people out: an engine, a pose spec and the decoder, put together."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from graphopt.errors import InputError, UsageError
from graphopt.ir.files import replacing
from graphopt.pose.boxes import Box, look_in_boxes, padding_of
from graphopt.pose.bundle_estimator import BundledEstimator
from graphopt.pose.decode import Poses
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.draw import draw
from graphopt.pose.head_choice import decode_outputs
from graphopt.pose.images import (
    check_picture_suffix,
    expand,
    is_picture,
    is_video,
    read_photo,
    read_video,
    write_picture,
    write_video,
)
from graphopt.pose.preprocess import arranged, extents, prepare
from graphopt.pose.skeleton import Skeleton
from graphopt.pose.spec import AnySpec
from graphopt.pose.track import Tracker
from graphopt.runtime.engine import Engine
from graphopt.runtime.runner import BundleRunner

Tracking = Literal["off", "track", "smooth"]
"""Whether people of a video are followed from frame to frame, and their key points smoothed."""


class FindsPeople(Protocol):
    """Photo in, people out, wherever that happens."""

    @property
    def spec(self) -> AnySpec:
        """How photos and people fit the network."""
        ...

    def __call__(self, photo: Image.Image) -> Poses:
        """The people in a photo, in its pixels."""
        ...


@dataclass(frozen=True)
class Estimator:
    """A pose network that is ready for photos."""

    engine: Engine
    spec: AnySpec
    options: DecodeOptions = field(default_factory=DecodeOptions)
    height: int | None = None
    """Rows of the input where the network takes any; None leaves it to the spec."""

    def __call__(self, photo: Image.Image) -> Poses:
        """The people in a photo of any mode (`as_rgb`), in its pixels."""
        return self.within(photo, None)

    def within(self, photo: Image.Image, boxes: Sequence[Box] | None) -> Poses:
        """The same, of a network that sees one person, in boxes; None: in the whole photo."""
        padding = padding_of(self.spec)
        if padding is None:
            return self._look(photo)
        ((_, shape),) = self.engine.inputs.items()
        return look_in_boxes(photo, boxes, padding, extents(shape), self._look)

    def _look(self, photo: Image.Image) -> Poses:
        if self._bundled is not None:
            return self._bundled(photo)
        ((name, shape),) = self.engine.inputs.items()
        size = extents(shape)
        tensor, placement = prepare(photo, self.spec.preprocess, size, height=self.height)
        outputs = self.engine.run({name: arranged(tensor, shape)})
        seen = (tensor.shape[2], tensor.shape[3])
        return decode_outputs(outputs, self.spec, placement, self.options, seen)

    @cached_property
    def _bundled(self) -> BundledEstimator | None:
        if not isinstance(self.engine, BundleRunner):
            return None
        return BundledEstimator(self.engine, self.spec, self.options)


@dataclass(frozen=True)
class Result:
    """What was found in one photo, or one frame."""

    image: str
    """The photo's path as it was given; for a frame the video's and `#number`, from 0."""
    width: int
    height: int
    poses: Poses
    milliseconds: float
    """From decoded pixels to people: pre-processing, network and decoding."""
    video: str = ""
    """The video that this is a frame of."""

    def to_json(self, skeleton: Skeleton) -> dict[str, Any]:
        """The JSON shape of `graphopt run --json`.

        Key points are in the skeleton's order, x and y in pixels of the photo with the centre of
        the first pixel at (0, 0); a part that was not found is [0, 0, 0].
        """
        return {
            "image": self.image,
            "width": self.width,
            "height": self.height,
            "people": [
                {
                    **({} if person.identity is None else {"id": person.identity}),
                    "score": round(person.score, 5),
                    "keypoints": [
                        [round(float(x), 3), round(float(y), 3), round(float(score), 5)]
                        for x, y, score in person.keypoints
                    ],
                }
                for person in self.poses.people
            ],
            "skeleton": skeleton.name,
        }


@dataclass
class VideoSummary:
    """What was found in a video, in a line.

    Frames a second are counted from the moment the first frame was done.
    """

    video: str
    frames: int = 0
    people: list[int] = field(default_factory=list)
    """In each frame."""
    followed: set[int] = field(default_factory=set)
    milliseconds: float = 0.0
    seconds: float = 0.0
    _start: float = 0.0

    def add(self, result: Result) -> None:
        """Count a frame that has just been done."""
        now = time.perf_counter()
        self._start = self._start or now
        self.seconds = now - self._start
        self.frames += 1
        self.milliseconds += result.milliseconds
        self.people.append(len(result.poses.people))
        self.followed |= {p.identity for p in result.poses.people if p.identity is not None}

    def __str__(self) -> str:
        """The line."""
        fewest, most = min(self.people), max(self.people)
        people = f"{most}" if fewest == most else f"{fewest} to {most}"
        parts = [
            f"{self.frames} frame{'s' if self.frames > 1 else ''}",
            f"{people} {'person' if most == 1 else 'people'} in each",
            *([f"{len(self.followed)} followed"] if self.followed else []),
            f"{self.milliseconds / self.frames:.0f} ms a frame",
            *([f"{(self.frames - 1) / self.seconds:.1f} frames/s"] if self.frames > 1 else []),
        ]
        return f"{self.video}: {', '.join(parts)}"


@dataclass(frozen=True)
class Job:
    """Photos, folders and videos to look at, and where the pictures go."""

    files: Sequence[tuple[Path, bool]]
    """Each file, and whether it was named itself (or found in a folder)."""
    output: Path | None
    into_folder: bool
    json_file: Path | None = None
    tracking: Tracking = "off"
    names: Mapping[Path, str] = field(default_factory=dict)
    """What files are called that the user did not name."""

    @staticmethod
    def plan(
        inputs: Sequence[Path],
        output: Path | None,
        json_file: Path | None = None,
        tracking: Tracking = "off",
        names: Mapping[Path, str] | None = None,
    ) -> Job:
        """Look at what is given before any work is done.

        One photo goes to the file `output`, one video to a video if `output` is named like one;
        everything else goes to a folder, under the names of the inputs.

        Raises:
            InputError: an input is missing, two would become one, or an output is an input.
        """
        files = expand(inputs)
        if not files:
            raise InputError(f"no file in {', '.join(map(str, inputs))}")
        only = inputs[0] if len(inputs) == 1 and not inputs[0].is_dir() else None
        into_folder = True
        if only is not None and output is not None and not output.is_dir():
            into_folder = is_video(only) and not is_video(output)
            if not is_video(only):
                check_picture_suffix(output)
        if into_folder and output is not None and output.is_file():
            raise InputError(f"{output} is a file; several pictures go to a folder")
        if tracking != "off" and not any(is_video(path) for path, _ in files):
            raise UsageError("people are followed from frame to frame of a video; there is none")
        job = Job(files, output, into_folder, json_file, tracking, names or {})
        sources: dict[Path, Path] = {}
        for path, _ in files:
            target = job.target(path)
            for written in (target, json_file):
                if written is None or not (written.exists() and path.exists()):
                    continue
                if written.samefile(path):
                    raise InputError(f"{written} is an input", hint="choose another output")
            if target is not None and target in sources:
                both = f"{job.name(sources[target])} and {job.name(path)}"
                raise InputError(f"{both} would both become {target}")
            if target is not None:
                sources[target] = path
        return job

    def name(self, path: Path) -> str:
        """What a file is called."""
        return self.names.get(path, str(path))

    def target(self, path: Path) -> Path | None:
        """Where the picture of a photo goes; the video, or the folder of frames, of a video."""
        if self.output is None or not self.into_folder:
            return self.output
        if is_video(path):
            return self.output / path.stem.replace(":", "-")
        return self.output / (path.name if is_picture(path) else f"{path.name}.png")

    def run(self, estimator: FindsPeople, console: Console) -> Iterator[Result | None]:
        """Work through the files, with a progress bar on the console if there are several.

        Each result comes after its picture was written; None stands for a file of a folder that is
        not a photo. The JSON file is written at the end.
        """
        results = []
        with Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            # rich would send what is printed meanwhile to the console, past a redirected stdout.
            redirect_stdout=sys.stdout.isatty(),
            # Into a pipe or file, a bar that goes away again would leave an empty line.
            disable=not console.is_terminal
            or (len(self.files) == 1 and not is_video(self.files[0][0])),
        ) as progress:
            task = progress.add_task("", total=len(self.files))

            def expect(more: int) -> None:
                progress.update(task, total=(progress.tasks[task].total or 0) + more)

            for path, named in self.files:
                for result in self._file(path, named, estimator, expect):
                    progress.advance(task)
                    if result is not None:
                        results.append(result.to_json(estimator.spec.skeleton))
                    yield result
        if self.json_file is not None:
            with replacing(self.json_file) as fresh:
                fresh.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    def _file(
        self, path: Path, named: bool, estimator: FindsPeople, expect: Callable[[int], None]
    ) -> Iterator[Result | None]:
        if is_video(path):
            yield from self._video(path, estimator, expect)
            return
        try:
            photo = read_photo(path)
        except InputError as error:
            if named:
                message = error.message.replace(str(path), self.name(path))
                raise InputError(message, hint=error.hint) from error
            yield None
            return
        yield _look(self.name(path), photo, estimator, self._picture_to(self.target(path)))

    def _video(
        self, path: Path, estimator: FindsPeople, expect: Callable[[int], None]
    ) -> Iterator[Result]:
        target = self.target(path)
        with ExitStack() as stack:
            video = stack.enter_context(read_video(path))
            expect(video.count - 1 if video.count else 0)
            follow = None
            if self.tracking != "off":
                skeleton = estimator.spec.skeleton
                follow = Tracker(skeleton, video.fps, smooth=self.tracking == "smooth")
            append = None
            if target is not None and not self.into_folder:
                append = stack.enter_context(write_video(target, video.fps))
            for number, frame in enumerate(video.frames):
                show = append
                if target is not None and show is None:
                    show = self._picture_to(target / f"{number:06d}.png")
                name = self.name(path)
                found = _look(f"{name}#{number}", frame, estimator, show, follow)
                yield replace(found, video=name)

    @staticmethod
    def _picture_to(path: Path | None) -> Callable[[Image.Image], None] | None:
        return None if path is None else lambda image: write_picture(image, path)


def _look(
    name: str,
    photo: Image.Image,
    estimator: FindsPeople,
    show: Callable[[Image.Image], None] | None,
    follow: Tracker | None = None,
) -> Result:
    start = time.perf_counter()
    named = getattr(estimator, "named", None)  # where boxes are given by photo
    poses = estimator(photo) if named is None else named(name)(photo)
    if follow is not None:
        poses = replace(poses, people=follow(poses.people))
    overhead = getattr(estimator, "overhead", 0.0)  # of a phone: the way there and back
    milliseconds = 1e3 * (time.perf_counter() - start - overhead)
    if show is not None:
        show(draw(photo, poses.people, estimator.spec.skeleton))
    return Result(name, photo.width, photo.height, poses, milliseconds)
