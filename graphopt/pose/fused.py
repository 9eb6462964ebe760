"""Decoding by compiled kernels: the same poses as `graphopt.pose.decode`, from the same maps.

The kernels find peaks and limbs; people are put together by the code that the NumPy decoder has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphopt.engine import Engine
from graphopt.errors import InputError
from graphopt.pose.decode import DecodeOptions, Detected, Pairs, Peaks, Poses, poses
from graphopt.pose.preprocess import Placement
from graphopt.pose.spec import PoseSpec


@dataclass(frozen=True)
class FusedDecoder:
    """A decoder's bundle; called like `graphopt.pose.decode.decode`.

    Args:
        engine: a bundle that `graphopt.codegen.decoder` wrote for the skeleton and the maps' size.
        compiled: the options that it was compiled for; others may differ in thresholds.
    """

    engine: Engine
    compiled: DecodeOptions = DecodeOptions()

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
        return poses(self.detect(outputs, spec, options), spec, placement, options)

    def detect(
        self, outputs: Mapping[str, NDArray[np.generic]], spec: PoseSpec, options: DecodeOptions
    ) -> Detected:
        """Peaks and limbs in a network's outputs."""
        for limit in ("samples", "max_peaks"):
            built, asked = getattr(self.compiled, limit), getattr(options, limit)
            if built != asked:
                raise InputError(f"the decoder was compiled for {limit}={built}, not {asked}")
        thresholds = (options.peak_threshold, options.paf_threshold, _allowed(options))
        feeds = {
            "thresholds": np.array(thresholds, np.float32),
            "heat": spec.heat.of(outputs)[: len(spec.skeleton.parts)],
        }
        if spec.paf is not None:
            feeds["paf"] = spec.paf.of(outputs)[: spec.skeleton.paf_channels]
        found = self.engine.run(feeds)
        kept, total, bad = found["counts"].T
        first = np.cumsum(kept) - kept
        part, place = _ranges(kept)
        x_y_score = found["peaks"][part, place]
        dropped = tuple(np.flatnonzero(total > kept).tolist())
        peaks = Peaks(part, x_y_score[:, :2], x_y_score[:, 2], dropped)
        pairs = None
        if spec.paf is not None:
            limb, place = _ranges(found["chosen"][:, 0])
            ends = np.array([spec.skeleton.ends(limb) for limb in spec.skeleton.paf_limbs])
            start, end = (first[ends[limb]] + found["ends"][limb, place]).T
            pairs = Pairs(limb, start, end, found["scores"][limb, place])
        return Detected(peaks, pairs, finite=not bad.any())


def _allowed(options: DecodeOptions) -> int:
    """How many of a limb's samples may fail; -1 if none has enough support."""
    supporting = np.arange(options.samples + 1)
    enough = supporting.astype(np.float32) / np.float32(options.samples) > options.min_support
    return options.samples - int(enough.argmax()) if enough.any() else -1


def _ranges(counts: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For counts [n] of things in n boxes: the box of each thing, and its place there."""
    box = np.repeat(np.arange(len(counts)), counts)
    return box, np.arange(len(box)) - (np.cumsum(counts) - counts)[box]
