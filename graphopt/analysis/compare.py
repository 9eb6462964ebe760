"""How much the poses change when a network is changed: no labels needed.

Both networks see the same inputs, and key points are compared in the input's pixels, so that the
figures do not depend on how large the photos were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphopt.analysis.options import CompareOptions
from graphopt.errors import InputError
from graphopt.fitting.calibration import is_photo
from graphopt.ir.arrays import Array
from graphopt.ir.records import Record
from graphopt.pose.decode import Person, decode
from graphopt.pose.images import expand, read_photo
from graphopt.pose.open import open_engine
from graphopt.pose.preprocess import IDENTITY, arranged, extents, prepare
from graphopt.pose.similarity import oks, pose_shift
from graphopt.pose.spec import PoseSpec
from graphopt.runtime.differences import OutputError
from graphopt.runtime.engine import Engine


@dataclass(frozen=True)
class PoseChange(Record):
    """What became of the people in some images; distances in pixels of the network's input."""

    images: int
    error: float
    """The outputs' error, see `runtime.differences.OutputError`."""
    people: int
    """People that the first network found."""
    lost: int
    """People without a counterpart (OKS at least 0.5) in what the second one found."""
    added: int
    """People that only the second network found."""
    mean_shift: float
    """Mean distance of the key points that both of a pair have, averaged in an image and then over
    the pairs of all images; 0 without any."""
    oks: float
    """Mean object key-point similarity of each person to the nearest that the second network
    found; 0 for those it lost, 1 where there are no people at all."""

    def __str__(self) -> str:
        return (
            f"key points move by {self.mean_shift:.2f} pixels in the mean, OKS {self.oks:.3f}; "
            f"of {self.people} people {self.lost} are lost, {self.added} added"
        )


class PoseTally:
    """What becomes of people, photo after photo.

    Args:
        spec: whose skeleton they have.
    """

    def __init__(self, spec: PoseSpec) -> None:
        self._skeleton = spec.skeleton
        self._images = self._people = self._lost = self._added = self._pairs = 0
        self._distance = 0.0
        self._similarities: list[float] = []

    def add(self, first: Sequence[Person], second: Sequence[Person]) -> None:
        """Take in the people that two networks found in one photo."""
        shift = pose_shift(first, second, self._skeleton)
        self._images += 1
        self._people += len(first)
        self._lost += shift.lost
        self._added += shift.added
        self._pairs += shift.matched
        self._distance += shift.mean_pixels * shift.matched
        for person in first:
            nearest = max((oks(person, other, self._skeleton) for other in second), default=0.0)
            self._similarities.append(nearest)

    def change(self, error: float) -> PoseChange:
        """What became of all of them, beside the error of the outputs that they were read from."""
        return PoseChange(
            images=self._images,
            error=error,
            people=self._people,
            lost=self._lost,
            added=self._added,
            mean_shift=self._distance / max(self._pairs, 1),
            oks=float(np.mean(self._similarities)) if self._similarities else 1.0,
        )


def compare(
    before: Engine, after: Engine, spec: PoseSpec, feeds: Iterable[Mapping[str, Array]]
) -> PoseChange:
    """Run two networks on the same inputs and compare the people that they find.

    Args:
        before: the one to measure from.
        after: the one to measure, with outputs of the same names.
        spec: how outputs become people, for both.
        feeds: inputs, pre-processed.

    Raises:
        InputError: one of them does not run on the inputs, or lacks an output that is read.
    """
    error, tally = OutputError(), PoseTally(spec)
    for feed in feeds:
        expected, values = before.run(feed), after.run(feed)
        error.add(values, expected)
        tally.add(people_in(expected, spec), people_in(values, spec))
    return tally.change(error.value)


def compare_files(
    before: Path,
    after: Path,
    options: CompareOptions,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> PoseChange:
    """Compare two bundles or ONNX files on a folder of photos.

    Args:
        before: the one to measure from; its pre-processing and skeleton hold for both.
        after: the one to measure.
        options: the photos, files in whose folder that are none are passed over; what runs both.
        progress: told how many photos are done, of how many.

    Raises:
        InputError: a file that is missing or no network, no photos, or networks whose inputs have
            different names or sizes.
    """
    opening, images = options.running.opening(), options.images
    first, spec = open_engine(before, **opening)
    second, _ = open_engine(after, **opening)
    if dict(first.inputs).keys() != dict(second.inputs).keys():
        raise InputError(
            f"{before} reads {', '.join(first.inputs)}, {after} reads {', '.join(second.inputs)}",
            hint="compare a network with what was made of it",
        )
    ((name, shape),) = second.inputs.items()
    fixed = [a or b for a, b in zip(extents(first.inputs[name]), extents(shape), strict=True)]
    files = [path for path, _ in expand([images]) if is_photo(path)]
    files = files[: options.limit]
    if not files:
        raise InputError(f"there is no photo in {images}")

    def feeds() -> Iterator[Mapping[str, Array]]:
        for done, file in enumerate(files):
            progress(done, len(files))
            values, _ = prepare(
                read_photo(file), spec.preprocess, fixed, height=options.running.height
            )
            yield {name: arranged(values, shape)}
        progress(len(files), len(files))

    return compare(first, second, spec, feeds())


def people_in(outputs: Mapping[str, Array], spec: PoseSpec) -> Sequence[Person]:
    """The people in a network's outputs, in pixels of its input."""
    return decode(outputs, spec, IDENTITY).people
