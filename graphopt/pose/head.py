"""What a head is: how a network's outputs mean people, as a file in `graphopt/pose/heads/` says.

A head file defines `HEAD`. Most are an `OutputHead`: `find` says from the outputs' shapes and
values which of them it would read and how, `people` is the meaning in NumPy, and the rest is data
that goes into `pose.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat

from graphopt.errors import InputError
from graphopt.ir.arrays import Feeds
from graphopt.pose.decode import Person, Poses
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.normalisation import find_normalisation
from graphopt.pose.preprocess import Placement
from graphopt.pose.probe import Probe, probe_network
from graphopt.pose.skeleton import Skeleton, builtin_skeletons, load_skeleton
from graphopt.pose.spec import CHOICES, AnySpec, Finding, Preprocess

FloatArray = NDArray[np.float32]
Size = tuple[int, int]
"""Rows and columns of a network's input."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec(AnySpec):
    """Everything between a photo and a network, and between its outputs and people."""

    head: str
    """The head's name."""
    preprocess: Preprocess
    skeleton: Skeleton
    outputs: dict[str, str]
    """What the head reads: its own names, and those of the network's outputs."""
    parameters: dict[str, FiniteFloat]
    """The head's numbers, such as thresholds."""
    notes: dict[str, Finding] = field(default_factory=dict)
    """How each part was found: head, skeleton, color, mean, scale, pad_value."""

    def with_choices(self, **said: Any) -> HeadSpec:
        """See `AnySpec`; another skeleton has as many parts."""
        chosen = super().with_choices(**said)
        parts, known = len(chosen.skeleton.parts), len(self.skeleton.parts)
        if parts != known:
            raise InputError(
                f"skeleton {chosen.skeleton.name} has {parts} parts, the network {known}"
            )
        return chosen

    def _of(self, part: str) -> str:
        return self.head if part == "head" else super()._of(part)


@dataclass(frozen=True)
class Look:
    """A network that heads look at, and what the user says about it."""

    proto: Any
    said: Mapping[str, Any]
    """Arguments of `detect_pose_spec`."""

    @cached_property
    def probe(self) -> Probe:
        """What the network gives at a small input."""
        return probe_network(self.proto, any_layout=True)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Each output's, in the graph's order."""
        return self.probe.outputs


class Head(Protocol):
    """How a network's outputs mean people."""

    @property
    def name(self) -> str:
        """As typed after `--head`."""
        ...

    @property
    def summary(self) -> str:
        """What the outputs are, and whose networks have them."""
        ...

    @property
    def source(self) -> str:
        """The published decoder that it means."""
        ...

    def read(self, look: Look) -> Iterator[AnySpec]:
        """Each way to read a network's outputs; none where they do not fit.

        Raises:
            GraphoptError: why they do not fit, where that can be said.
        """
        ...

    def decode(
        self, outputs: Feeds, spec: Any, placement: Placement, options: DecodeOptions, size: Size
    ) -> Poses:
        """The people in a network's outputs for one photo, best first.

        Args:
            outputs: by name, batch of one.
            spec: what `read` gave.
            placement: where the photo lies in the network's input.
            options: thresholds and limits.
            size: rows and columns of that input.
        """
        ...


@dataclass(frozen=True)
class Found:
    """A way to read a network's outputs."""

    outputs: dict[str, str]
    """See `HeadSpec.outputs`."""
    parts: int
    """How many key points a person has."""
    why: str
    """What says so."""
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Where they differ from the head's."""
    guessed: bool = False
    """Whether it could be otherwise."""


@dataclass(frozen=True)
class Answers:
    """The outputs that a head reads, for one photo."""

    values: Mapping[str, FloatArray]
    """By the head's own names; finite."""
    parameters: Mapping[str, float]
    options: DecodeOptions
    size: Size
    """Rows and columns of the network's input."""
    skeleton: Skeleton

    def __getitem__(self, name: str) -> FloatArray:
        return self.values[name]


SKELETONS = ("coco17", "blazepose33", "coco-wholebody133", "halpe26", "hand21")
"""Of those with equally many key points, the first is guessed."""


@dataclass(frozen=True)
class OutputHead:
    """A head whose file says what it reads (`find`) and what that means (`people`).

    Args:
        name, summary, source: see `Head`.
        preprocess: as the family trains; what the graph itself tells goes before it.
        find: each way to read outputs.
        people: key points [n, parts, 3], x and y in pixels of the input, and scores [n].
        parameters: the head's numbers.
        edges: whether 0 is the first pixel's edge, rather than its centre.
    """

    name: str
    summary: str
    source: str
    preprocess: Preprocess
    find: Callable[[Look], Iterator[Found]]
    people: Callable[[Answers], tuple[FloatArray, FloatArray]]
    parameters: Mapping[str, float] = field(default_factory=dict)
    edges: bool = False

    def read(self, look: Look) -> Iterator[HeadSpec]:
        """See `Head`."""
        for found in self.find(look):
            chosen = look.said.get("skeleton")
            skeleton, known = _skeleton(found, chosen)
            preprocess, notes = self._preprocess(look)
            yield HeadSpec(
                head=self.name,
                preprocess=preprocess,
                skeleton=skeleton,
                outputs=found.outputs,
                parameters=dict(self.parameters) | dict(found.parameters),
                notes={
                    "head": Finding(how="guessed" if found.guessed else "detected", why=found.why),
                    "skeleton": known,
                    **notes,
                },
            ).with_choices(**{name: look.said.get(name) for name in CHOICES})

    def _preprocess(self, look: Look) -> tuple[Preprocess, dict[str, Finding]]:
        """As the graph says, or else as the family trains."""
        usual = self.preprocess
        told, notes = find_normalisation(look.proto, look.probe, "single")
        told = {k: v for k, v in told.items() if notes[k].how == "detected" and k != "pad_value"}
        if "mean" not in told:  # a colour alone comes of a guess
            told = {}
        guess = Finding(how="guessed", why=f"as networks with the head {self.name} are trained")
        return (
            replace(
                usual,
                **told,
                multiple=max(usual.multiple, look.probe.downsampling),
                height=look.probe.default if _is_fixed(look.proto) else usual.height,
            ),
            {name: notes[name] if name in told else guess for name in CHOICES},
        )

    def decode(
        self,
        outputs: Feeds,
        spec: HeadSpec,
        placement: Placement,
        options: DecodeOptions,
        size: Size,
    ) -> Poses:
        """See `Head`."""
        read = {role: np.asarray(outputs[name], np.float32) for role, name in spec.outputs.items()}
        finite = all(np.isfinite(value).all() for value in read.values())
        if not finite:
            read = {r: np.nan_to_num(v, nan=0, posinf=0, neginf=0) for r, v in read.items()}
        answers = Answers(read, spec.parameters, options, size, spec.skeleton)
        keypoints, scores = self.people(answers)
        least = max(options.min_score, spec.parameters.get("min_score", 0.0))
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= least]
        keypoints, scores = keypoints[order].copy(), scores[order].clip(0, 1)
        points = keypoints[..., :2]
        if self.edges:
            keypoints[..., :2] = (points - placement.offset) / placement.scale
        else:
            keypoints[..., :2] = placement.to_photo(points)
        keypoints[keypoints[..., 2] <= spec.parameters.get("min_part_score", 0.0)] = 0
        limit = options.max_people
        said = [] if finite else ["the outputs hold values that are not finite; they count as 0"]
        if len(order) > limit:
            said.append(f"more than {limit} people; the weakest were left out")
        people = zip(keypoints[:limit], scores[:limit].tolist(), strict=True)
        return Poses(tuple(Person(k, score) for k, score in people), tuple(said))


def part_counts(look: Look) -> list[int]:
    """How many key points people may have: the chosen skeleton's, or those of `SKELETONS`."""
    chosen = look.said.get("skeleton")
    names = SKELETONS if chosen is None else (chosen,)
    return list(dict.fromkeys(len(load_skeleton(name).parts) for name in names))


def _skeleton(found: Found, chosen: Any) -> tuple[Skeleton, Finding]:
    """The skeleton of a reading, and how it is known."""
    if chosen is not None:
        return load_skeleton(chosen), Finding(how="given", why="by flag")
    for name in SKELETONS:
        skeleton = load_skeleton(name)
        if len(skeleton.parts) == found.parts:
            why = f"{found.parts} key points a person"
            return skeleton, Finding(how="detected", why=why)
    raise InputError(
        f"no skeleton that is known has {found.parts} key points",
        hint="say which one it is with --skeleton, a built-in name "
        f"({', '.join(builtin_skeletons())}) or a TOML file",
    )


def _is_fixed(proto: Any) -> bool:
    """Whether the network's input has a fixed height and width."""
    weights = {t.name for t in proto.graph.initializer}
    (tensor,) = (i for i in proto.graph.input if i.name not in weights)
    return all(d.dim_value for d in tensor.type.tensor_type.shape.dim[1:])
