"""What a pose network expects of a photo and where its answers are: the `PoseSpec`.

`detect_pose_spec` reads it out of an ONNX file: from what the file or the user says, from the
graph, and, for the normalisation of a network that says nothing, from a guess that is named as one.
A compiled bundle keeps it as `pose.json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, ValidationError

from graphopt.errors import InputError, Unsupported, UsageError
from graphopt.ir.records import Record
from graphopt.pose.map_slices import MapSlice
from graphopt.pose.maps_option import parse_maps
from graphopt.pose.skeleton import Skeleton, first_complaint, load_skeleton

METADATA_KEY = "graphopt.pose"
"""The key of `metadata_props` in an ONNX file that holds its PoseSpec as JSON."""

Triple = tuple[FiniteFloat, FiniteFloat, FiniteFloat]
Color = Literal["bgr", "rgb"]
FloatArray = NDArray[np.float32]
ASPECT = 16 / 9
"""Width to height of the input where nobody says a size: what cameras give."""
CHOICES = ("color", "mean", "scale", "pad_value")


@dataclass(frozen=True)
class Preprocess(Record):
    """From 8-bit pixels to the network's input: value = (pixel - mean) * scale, a channel each."""

    color: Color
    """The order of the input's channels; `mean` and `scale` are in this order."""
    mean: Triple
    scale: Triple
    pad_value: FiniteFloat = 128.0
    """What fills the border, as a pixel value 0..255 (before mean and scale)."""
    multiple: Annotated[int, Field(gt=0)] = 8
    """Height and width of the input are multiples of it."""
    height: Annotated[int, Field(gt=0)] = 368
    """Default height of the input in pixels, where the network takes any."""

    @property
    def usual_size(self) -> tuple[int, int]:
        """Height and width of an input that takes any, where nobody says a size.

        `height`, and 16/9 of it, in multiples of the network's downsampling.
        """
        height, width = (
            max(1, round(extent / self.multiple)) * self.multiple
            for extent in (self.height, self.height * ASPECT)
        )
        return height, width


@dataclass(frozen=True)
class Finding(Record):
    """How a part of a PoseSpec was found."""

    how: Literal["given", "metadata", "detected", "guessed"]
    why: str


HEAT_IMPORTANCE = 0.5
"""What an error of the heat maps counts, of 1 in all; the rest is the PAFs'. Both are relative to
their channels. With the PAFs of the dense network, a Lightweight OpenPose pruned to 1.8 times fewer
multiply-adds keeps no more AP than with its own, with the dense heat maps 0.438 of 0.462; but plans
made with 0.75 kept less (0.387 in place of 0.393): layers that both need share the loss."""


class AnySpec(Record):
    """What every pose spec says, whichever head its network has."""

    preprocess: Preprocess
    skeleton: Skeleton
    notes: dict[str, Finding]

    def with_choices(
        self: S,
        *,
        skeleton: str | Path | None = None,
        color: Color | None = None,
        mean: Triple | None = None,
        scale: Triple | None = None,
        pad_value: float | None = None,
    ) -> S:
        """A copy with what a user says in place of what was found (None keeps it).

        Raises:
            InputError: no such skeleton, or one that the network's outputs do not fit.
        """
        values = (color, mean, scale, pad_value)
        given: dict[str, Any] = {
            name: v for name, v in zip(CHOICES, values, strict=True) if v is not None
        }
        preprocess = vars(self.preprocess) | given
        fields = vars(self) | {"preprocess": preprocess}
        if skeleton is not None:
            fields["skeleton"] = load_skeleton(skeleton)
            given["skeleton"] = skeleton
        fields["notes"] = self.notes | dict.fromkeys(given, Finding(how="given", why="by flag"))
        try:
            return type(self).from_plain(fields)
        except ValidationError as error:
            raise InputError(first_complaint(error)) from error

    @property
    def guesses(self) -> list[str]:
        """What was only guessed, a line for each reason, with the flags that change it."""
        reasons: dict[str, list[str]] = {}
        for name, finding in self.notes.items():
            if finding.how == "guessed":
                reasons.setdefault(finding.why, []).append(name)
        lines = []
        for why, names in reasons.items():
            said = ", ".join(f"{name} {self._of(name)}" for name in names)
            flags = dict.fromkeys(_FLAGS.get(n, f"--{n.replace('_', '-')}") for n in names)
            lines.append(f"guessed: {said} ({why}; change it with {', '.join(flags)})")
        return lines

    def _of(self, part: str) -> str:
        """A part as its guess is told."""
        return self.skeleton.name if part == "skeleton" else _brief(getattr(self.preprocess, part))


S = TypeVar("S", bound=AnySpec)


@dataclass(frozen=True, kw_only=True)
class PoseSpec(AnySpec):
    """Everything between a photo and a network, and between a network's maps and people.

    Networks that answer with something else have a `graphopt.pose.head.HeadSpec`.
    """

    preprocess: Preprocess
    skeleton: Skeleton
    heat: MapSlice
    """The heat maps: channel i is part i; channels past the parts (background) are not read."""
    paf: MapSlice | None = None
    """The part affinity fields; None for a network of one person."""
    stride: Annotated[int, Field(gt=0)]
    """Input pixels to a heat map's pixel."""
    notes: dict[str, Finding] = field(default_factory=dict)
    """How each part was found: skeleton, maps, decoder, color, mean, scale, pad_value."""

    def __post_init__(self) -> None:
        """Refuse maps that the skeleton does not fit."""
        wanted = {"heat maps": (self.heat, len(self.skeleton.parts))}
        if self.paf is not None:
            wanted["PAF channels"] = (self.paf, self.skeleton.paf_channels)
        for what, (maps, least) in wanted.items():
            if maps.count < least or not least:
                raise ValueError(
                    f"skeleton {self.skeleton.name} has {least} {what}, the network {maps.count}"
                )

    def importance(self, channels: Mapping[str, int]) -> dict[str, FloatArray]:
        """What errors count: a weight for each channel of the outputs, 1 in all.

        Args:
            channels: how many each output has, by name. What is not read weighs nothing.

        Raises:
            Unsupported: maps whose channels come last.
        """
        if last := [
            m.output for m in (self.heat, self.paf) if m is not None and m.layout == "nhwc"
        ]:
            raise Unsupported(
                f"channels come last in {', '.join(sorted(set(last)))}",
                hint="export the network with channels first (tf2onnx: --outputs-as-nchw)",
            )
        read = [(self.heat, len(self.skeleton.parts), HEAT_IMPORTANCE)]
        if self.paf is not None:
            read.append((self.paf, self.skeleton.paf_channels, 1 - HEAT_IMPORTANCE))
        importance = {name: np.zeros(count, np.float32) for name, count in channels.items()}
        for maps, count, share in read:
            importance[maps.output][maps.first : maps.first + count] = share / count
        total = sum(float(weights.sum()) for weights in importance.values())
        return {name: weights / np.float32(total) for name, weights in importance.items()}

    def _of(self, part: str) -> str:
        if part in (*CHOICES, "skeleton"):
            return super()._of(part)
        slices = (self.heat,) if self.paf is None else (self.heat, self.paf)
        return {
            "maps": ", ".join(f"{k}={m}" for k, m in zip(("heat", "paf"), slices, strict=False)),
            "decoder": "for people" if self.paf else "for one person",
        }[part]


_FLAGS = {"decoder": "--maps"}
"""Flags that are not called as what they change."""


def _brief(value: str | float | Triple) -> str:
    if isinstance(value, tuple):
        return "/".join(dict.fromkeys(f"{number:.4g}" for number in value))
    return str(value)


def choices(
    skeleton: str | None = None,
    color: str | None = None,
    mean: str | None = None,
    scale: str | None = None,
    pad_value: float | None = None,
    maps: str | None = None,
) -> dict[str, Any]:
    """What a user said on a command line, as arguments of `detect_pose_spec` and `open_engine`.

    Raises:
        InputError: a colour order, a number or maps that cannot be read.
    """
    if maps is not None:
        parse_maps(maps)
    if color not in (None, *get_args(Color)):
        raise UsageError(f"--color {color}: not bgr or rgb")
    return {
        "skeleton": skeleton,
        "color": color,
        "mean": _triple("--mean", mean),
        "scale": _triple("--scale", scale),
        "pad_value": pad_value,
        "maps": maps,
    }


def _triple(flag: str, text: str | None) -> Triple | None:
    """`128`, `1/256` or `a,b,c` as three numbers."""
    if text is None:
        return None
    try:
        quotients = [item.split("/") for item in text.split(",")]
        values = [math.prod([float(q[0]), *(1 / float(d) for d in q[1:])]) for q in quotients]
        first, second, third = values * 3 if len(values) == 1 else values
        if not np.isfinite(values).all():
            raise ValueError(text)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"{flag} {text}: neither a number nor three", hint=f"such as {flag} 1/256 or 1,2,3"
        ) from error
    return first, second, third


def read_pose_spec(path: Path) -> PoseSpec:
    """The PoseSpec that a bundle keeps as `pose.json`.

    Raises:
        InputError: the file cannot be read, or holds no pose spec.
    """
    return parse_pose_spec(pose_text(path), where=str(path))


def pose_text(path: Path) -> str:
    """What a bundle keeps as `pose.json`, whichever head it is of.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read: {error}",
            hint="a bundle is made by: graphopt compile MODEL.onnx -o BUNDLE",
        ) from error


def parse_pose_spec(text: str, *, where: str) -> PoseSpec:
    """A pose spec of maps from JSON; errors say where it is from."""
    return parsed(PoseSpec, text, where=where)


def parsed(kind: type[S], text: str, *, where: str) -> S:
    """A pose spec of one kind from JSON.

    Raises:
        InputError: it holds none; says where it is from.
    """
    try:
        return kind.from_json(text)
    except ValidationError as error:
        raise InputError(f"{where} holds no pose spec: {first_complaint(error)}") from error
