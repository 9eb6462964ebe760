"""Decoding by compiled kernels: the same poses as `graphopt.pose.decode`, from the same maps.

The kernels say who is there, in pixels of the maps; here that goes to the photo. For networks of
one person they only find the peaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import InputError
from graphopt.pose.decode import Poses, answer, decode_single_person, on_photo, warnings
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.limbs import Pairs
from graphopt.pose.peaks import Peaks
from graphopt.pose.preprocess import Placement
from graphopt.pose.skeleton import Skeleton
from graphopt.pose.spec import PoseSpec
from graphopt.runtime.engine import Engine
from graphopt.runtime.plan import Decoder

LIMITS = ("samples", "max_peaks", "max_people")
"""Options that are compiled in; `thresholds` are the others."""


@dataclass(frozen=True)
class FusedDecoder:
    """A decoder's bundle; called like `graphopt.pose.decode.decode`.

    Args:
        engine: a bundle that `lowering.decode_stage` wrote for the skeleton and the maps' size.
        compiled: the options that it was compiled for; others may differ in thresholds.
    """

    engine: Engine
    compiled: DecodeOptions = field(default_factory=DecodeOptions)

    def __call__(
        self,
        outputs: Mapping[str, NDArray[np.generic]],
        spec: PoseSpec,
        placement: Placement,
        options: DecodeOptions | None = None,
    ) -> Poses:
        """The people in a network's outputs for one photo.

        Raises:
            InputError: the decoder was compiled for other maps, or other limits.
        """
        options = options or self.compiled
        found = self.engine.run(self.feeds(outputs, spec, options))
        return poses(found, spec, placement, options)

    def feeds(
        self, outputs: Mapping[str, NDArray[np.generic]], spec: PoseSpec, options: DecodeOptions
    ) -> dict[str, NDArray[np.float32]]:
        """What the bundle is given for a network's outputs."""
        for limit in LIMITS:
            built, asked = getattr(self.compiled, limit), getattr(options, limit)
            if built != asked:
                raise InputError(f"the decoder was compiled for {limit}={built}, not {asked}")
        feeds = {
            "thresholds": thresholds(options),
            "heat": spec.heat.of(outputs)[: len(spec.skeleton.parts)],
        }
        if spec.paf is not None:
            feeds["paf"] = spec.paf.of(outputs)[: spec.skeleton.paf_channels]
        return feeds

    def detect(
        self, outputs: Mapping[str, NDArray[np.generic]], spec: PoseSpec, options: DecodeOptions
    ) -> tuple[Peaks, Pairs | None]:
        """Peaks and limbs in a network's outputs, as `graphopt.pose.decode.detect` gives them."""
        found = self.engine.run(self.feeds(outputs, spec, options))
        return _peaks(found), None if spec.paf is None else _pairs(found, spec.skeleton)


def limited(options: DecodeOptions, decoder: Decoder) -> DecodeOptions:
    """The same options, with the limits that a bundle's decoder was compiled for."""
    return replace(options, **{name: getattr(decoder, name) for name in LIMITS})


def poses(
    found: Mapping[str, NDArray[Any]], spec: PoseSpec, placement: Placement, options: DecodeOptions
) -> Poses:
    """The people in what a decoder's kernels give."""
    if spec.paf is None:
        peaks = _peaks(found)
        people = decode_single_person(peaks, spec.skeleton, options)
        return answer(people, peaks, spec, placement, options)
    kept, total = found["found"].tolist()
    counts = found["counts"]
    return Poses(
        on_photo(found["people"][:kept], found["worth"][:kept].tolist(), spec, placement),
        warnings(
            spec,
            options,
            dropped=np.flatnonzero(counts[:, 1] > counts[:, 0]).tolist(),
            finite=not counts[:, 2].any(),
            people=total,
        ),
    )


def thresholds(options: DecodeOptions) -> NDArray[np.float32]:
    """What the kernels are given anew with each photo."""
    return np.array(
        [
            options.peak_threshold,
            options.paf_threshold,
            _allowed(options),
            options.min_parts,
            options.min_score,
        ],
        np.float32,
    )


def _peaks(found: Mapping[str, NDArray[Any]]) -> Peaks:
    kept, total, bad = found["counts"].T
    part, place = _ranges(kept)
    x_y_score = found["peaks"][part, place]
    dropped = tuple(np.flatnonzero(total > kept).tolist())
    return Peaks(part, x_y_score[:, :2], x_y_score[:, 2], dropped, finite=not bad.any())


def _pairs(found: Mapping[str, NDArray[Any]], skeleton: Skeleton) -> Pairs:
    kept = found["counts"][:, 0]
    first = np.cumsum(kept) - kept
    limb, place = _ranges(found["chosen"][:, 0])
    ends = np.array([skeleton.ends(limb) for limb in skeleton.paf_limbs])
    start, end = (first[ends[limb]] + found["ends"][limb, place]).T
    return Pairs(limb, start, end, found["scores"][limb, place])


def _allowed(options: DecodeOptions) -> int:
    """How many of a limb's samples may fail; -1 if none has enough support."""
    supporting = np.arange(options.samples + 1)
    enough = supporting.astype(np.float32) / np.float32(options.samples) > options.min_support
    return options.samples - int(enough.argmax()) if enough.any() else -1


def _ranges(counts: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For counts [n] of things in n boxes: the box of each thing, and its place there."""
    box = np.repeat(np.arange(len(counts)), counts)
    return box, np.arange(len(box)) - (np.cumsum(counts) - counts)[box]
