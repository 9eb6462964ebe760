"""People one at a time: each cut out of the photo by a box, for networks that see one person.

A box is grown by the head's `box_padding` and to the aspect of the network's input, as mmpose's
`GetBBoxCenterScale` and `TopdownAffine` do (with whole pixels); outside the photo is black. Without
boxes, the whole photo is one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from PIL import Image
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from graphopt.errors import InputError
from graphopt.ir.arrays import Shape
from graphopt.pose.decode import Person, Poses
from graphopt.pose.head import HeadSpec
from graphopt.pose.images import as_rgb
from graphopt.pose.skeleton import first_complaint
from graphopt.pose.spec import AnySpec

Side = Annotated[FiniteFloat, Field(gt=0)]
Box = tuple[FiniteFloat, FiniteFloat, Side, Side]
"""Left, top, width and height, in pixels of the photo."""


def read_boxes(path: Path) -> dict[str, list[Box]]:
    """Boxes of people, by the names of photos: an object with a list of boxes for each.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    hint = 'such as {"photo.jpg": [[left, top, width, height], ...]}'
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(dict[str, list[Box]]).validate_python(value)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint=hint) from error
    except ValidationError as error:
        raise InputError(f"{path} holds no boxes: {first_complaint(error)}", hint=hint) from error


def padding_of(spec: AnySpec) -> float | None:
    """How much boxes are grown, of a network that sees one person, cut out."""
    return spec.parameters.get("box_padding") if isinstance(spec, HeadSpec) else None


def look_in_boxes(
    photo: Image.Image,
    boxes: Sequence[Box] | None,
    padding: float,
    size: Shape,
    look: Callable[[Image.Image], Poses],
) -> Poses:
    """The people in boxes of a photo, best first, in the photo's pixels.

    Args:
        photo: of any mode.
        boxes: of the people; None: the whole photo.
        padding: how much they are grown.
        size: rows and columns of the network's input.
        look: finds the person in what is cut out.
    """
    photo = as_rgb(photo)
    people: list[Person] = []
    warnings: dict[str, None] = {}
    for left, top, width, height in [(0, 0, *photo.size)] if boxes is None else boxes:
        wide, tall = width * padding, height * padding
        rows, columns = size
        if rows and columns:
            wide, tall = max(wide, tall * columns / rows), max(tall, wide * rows / columns)
        x, y = round(left + (width - wide) / 2), round(top + (height - tall) / 2)
        cut = photo.crop((x, y, x + max(1, round(wide)), y + max(1, round(tall))))
        found = look(cut)
        for person in found.people:
            keypoints = person.keypoints.copy()
            keypoints[keypoints[:, 2] > 0, :2] += (x, y)
            people.append(Person(keypoints, person.score))
        warnings |= dict.fromkeys(found.warnings)
    return Poses(tuple(sorted(people, key=lambda person: -person.score)), tuple(warnings))


class LooksWithin(Protocol):
    """Finds people in boxes of a photo."""

    @property
    def spec(self) -> AnySpec:
        """How photos and people fit the network."""
        ...

    def within(self, photo: Image.Image, boxes: Sequence[Box] | None) -> Poses:
        """The people in boxes of a photo."""
        ...


@dataclass(frozen=True)
class InBoxes:
    """An estimator that looks at the boxes of each photo, by its name."""

    estimator: LooksWithin
    boxes: Mapping[str, Sequence[Box]]

    @property
    def spec(self) -> AnySpec:
        """The estimator's."""
        return self.estimator.spec

    def __call__(self, photo: Image.Image) -> Poses:
        """Nobody: a photo without a name has no boxes."""
        return self.estimator.within(photo, ())

    def named(self, name: str) -> Callable[[Image.Image], Poses]:
        """The same for a photo of a name: its path as given, or the last part of that."""
        boxes = self.boxes.get(name, self.boxes.get(Path(name).name, ()))
        return lambda photo: self.estimator.within(photo, boxes)
