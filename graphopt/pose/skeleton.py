"""Which parts a body has, how they are joined, and where a network keeps them: skeletons as data.

A skeleton is a TOML file (`skeletons/*.toml` come with graphopt; `--skeleton FILE.toml` takes a
user's own). Part i is heat map i; a limb names two parts and the two channels of the part affinity
fields (PAFs; Cao et al., CVPR 2017, section 2.3) that point from the first to the second.
"""

from __future__ import annotations

import colorsys
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from graphopt.errors import InputError, UsageError
from graphopt.ir.records import Record, complaint

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COCO_PARTS = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""COCO's 17 key points, in COCO's order."""

Color = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]


@dataclass(frozen=True)
class Part(Record):
    """A key point of the body; its heat map is the channel at its place in the skeleton's list."""

    name: str
    mirror: str | None = None
    """The same part on the other side of the body; None for parts on the midline."""
    coco: str | None = None
    """COCO's name of this key point; None where COCO has no such key point."""
    color: Color | None = None
    """#rrggbb; None takes a hue by the part's place in the list."""


@dataclass(frozen=True)
class Limb(Record):
    """Two joined parts."""

    start: str
    end: str
    paf: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = None
    """The PAF channels (x, y), counted within the PAFs; None for a limb that is only drawn."""
    bridge: bool = False
    """A limb that fills a gap in a person but never starts one, and that is not drawn."""
    color: Color | None = None
    """#rrggbb; None blends from the colour of `start` to that of `end`."""


@dataclass(frozen=True)
class Skeleton(Record):
    """Parts and limbs. Everything else (index arrays, colours, maps) follows from them."""

    name: str
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]
    limbs: tuple[Limb, ...] = ()
    spare: tuple[int, ...] = ()
    """Channel counts of outputs that networks have besides, and that people are found without."""

    def __post_init__(self) -> None:
        """Refuse parts and limbs that contradict each other."""
        names = [part.name for part in self.parts]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"parts: {sorted(repeated)} are listed twice")
        for i, part in enumerate(self.parts):
            if part.mirror is not None and part.mirror not in names:
                raise ValueError(f"parts[{i}].mirror: no part is called {part.mirror!r}")
            if part.mirror is not None and self.part(part.mirror).mirror != part.name:
                raise ValueError(
                    f"parts[{i}].mirror: {part.mirror!r} does not name {part.name!r} as its mirror"
                )
            if part.coco is not None and part.coco not in COCO_PARTS:
                raise ValueError(f"parts[{i}].coco: COCO has no key point {part.coco!r}")
        for i, limb in enumerate(self.limbs):
            for field, name in (("start", limb.start), ("end", limb.end)):
                if name not in names:
                    raise ValueError(f"limbs[{i}].{field}: no part is called {name!r}")
            if limb.start == limb.end:
                raise ValueError(f"limbs[{i}]: starts and ends at {limb.start!r}")
        channels = [channel for limb in self.limbs for channel in limb.paf or ()]
        if len(set(channels)) < len(channels):
            twice = sorted({c for c in channels if channels.count(c) > 1})
            raise ValueError(f"limbs: PAF channels {twice} are used twice")

    def part(self, name: str) -> Part:
        """The part of that name."""
        return next(part for part in self.parts if part.name == name)

    @cached_property
    def index(self) -> dict[str, int]:
        """A part's place, by its name."""
        return {part.name: i for i, part in enumerate(self.parts)}

    @cached_property
    def paf_limbs(self) -> tuple[Limb, ...]:
        """The limbs that PAFs are predicted for, in their order."""
        return tuple(limb for limb in self.limbs if limb.paf is not None)

    @property
    def paf_channels(self) -> int:
        """How many PAF channels a network for this skeleton has; 0 without PAFs."""
        return max((c for limb in self.paf_limbs for c in limb.paf or ()), default=-1) + 1

    def ends(self, limb: Limb) -> tuple[int, int]:
        """The places of a limb's two parts."""
        return self.index[limb.start], self.index[limb.end]

    @cached_property
    def mirrors(self) -> NDArray[np.int64]:
        """[parts]: the place of each part's mirror image, itself on the midline."""
        return np.array([self.index[p.mirror or p.name] for p in self.parts])

    @cached_property
    def to_coco(self) -> NDArray[np.int64]:
        """[17]: the place of each COCO key point in this skeleton, -1 where it has none."""
        places = {part.coco: i for i, part in enumerate(self.parts)}
        return np.array([places.get(name, -1) for name in COCO_PARTS])

    @cached_property
    def part_colors(self) -> tuple[str, ...]:
        """A colour (#rrggbb) for each part."""
        return tuple(part.color or _hue(i / len(self.parts)) for i, part in enumerate(self.parts))


def _hue(turn: float) -> str:
    r, g, b = colorsys.hsv_to_rgb(turn, 0.75, 1.0)
    return f"#{round(r * 255):02x}{round(g * 255):02x}{round(b * 255):02x}"


def builtin_skeletons() -> tuple[str, ...]:
    """The names of the skeletons that come with graphopt."""
    folder = resources.files("graphopt.pose") / "skeletons"
    return tuple(
        sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))
    )


def load_skeleton(name: str | Path) -> Skeleton:
    """A skeleton by its built-in name, or from a TOML file.

    Raises:
        InputError: no such skeleton or file, or a file without a valid skeleton; the message says
            the line (where the TOML is broken) or the field (where its content is).
    """
    if name in builtin_skeletons():
        source = resources.files("graphopt.pose") / "skeletons" / f"{name}.toml"
        return Skeleton.from_plain(tomllib.loads(source.read_text(encoding="utf-8")))
    path = Path(name)
    hint = f"built in: {', '.join(builtin_skeletons())}; or a TOML file written like them"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        kind = InputError if path.exists() else UsageError
        raise kind(f"no skeleton {str(name)!r}: {error.strerror or error}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file", hint=hint) from error
    except ValueError as error:  # a null byte in its name
        raise InputError(f"no skeleton {str(name)!r}: {error}", hint=hint) from error
    try:
        return Skeleton.from_plain(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:  # brackets within brackets …
        raise InputError(f"{path} is not TOML: {error}", hint=hint) from error
    except ValidationError as error:
        raise InputError(f"{path} is no skeleton: {first_complaint(error)}", hint=hint) from error


def first_complaint(error: ValidationError) -> str:
    """Pydantic's first finding as `field[3].name: what is wrong`."""
    finding = error.errors(include_url=False)[0]
    where = _field(finding["loc"])
    what = complaint(error)
    return f"{where}: {what}" if where else what


def _field(place: Sequence[str | int]) -> str:
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place)
    return text.removeprefix(".")
