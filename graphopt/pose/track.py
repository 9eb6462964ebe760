"""Who is who from frame to frame of a video, and key points that do not tremble.

People of a frame are matched with those of the frames before by object key-point similarity; who is
away for longer than `PATIENCE` comes back as somebody else. Key points are smoothed by the One Euro
filter (Casiez, Roussel and Vogel, CHI 2012): a low-pass filter whose cutoff rises with speed, so
that what is still does not tremble and what moves does not lag.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from graphopt.pose.decode import Person
from graphopt.pose.similarity import matched
from graphopt.pose.skeleton import Skeleton

Floats = NDArray[np.float64]

MIN_OKS = 0.2
"""Similarity to who was there before, below which it is somebody else."""
PATIENCE = 1.0
"""Seconds that somebody may not be seen and still be the same."""
CUTOFF = 1.0
"""Cutoff of the low-pass filter for what stands still, in Hz."""
SLOPE = 5.0
"""How fast the cutoff rises: Hz for a speed of the person's own size a second."""
SPEED_CUTOFF = 1.0
"""Cutoff of the filter for the speed itself, in Hz."""


@dataclass
class OneEuro:
    """The filter for all key points of a person.

    A part that is not found is forgotten: where it comes back, it starts afresh.
    """

    fps: float
    _at: Floats | None = None
    """[parts, 2]: where the key points were last; not finite where there was none."""
    _speed: Floats | None = None

    def __call__(self, keypoints: NDArray[np.float32]) -> NDArray[np.float32]:
        """Key points [parts, 3] of the next frame, smoothed; scores stay as they are."""
        found = keypoints[:, 2] > 0
        now = np.where(found[:, None], keypoints[:, :2].astype(np.float64), np.nan)
        was = np.full_like(now, np.nan) if self._at is None else self._at
        speed = np.zeros_like(now) if self._speed is None else self._speed
        size = max(1.0, float(np.ptp(now[found], axis=0).max())) if found.any() else 1.0
        known = np.isfinite(was) & found[:, None]
        fresh = np.where(known, (now - was) * self.fps, 0.0)
        speed = np.where(known, speed + self._share(SPEED_CUTOFF) * (fresh - speed), 0.0)
        pace = np.linalg.norm(speed, axis=1, keepdims=True) / size
        share = self._share(CUTOFF + SLOPE * pace)
        self._at = np.where(known, was + share * (now - was), now)
        self._speed = speed
        smoothed: NDArray[np.float32] = keypoints.copy()
        smoothed[found, :2] = self._at[found]
        return smoothed

    def _share(self, cutoff: float | Floats) -> Floats:
        """How much of the way to a new value a first-order filter goes in a frame."""
        rate = 2 * np.pi * np.asarray(cutoff) / self.fps
        return np.asarray(rate / (rate + 1))


@dataclass
class _Track:
    number: int
    person: Person
    """As last seen, not smoothed."""
    smooth: OneEuro
    away: int = 0
    """Frames since."""


@dataclass
class Tracker:
    """People of one video.

    Args:
        skeleton: theirs.
        fps: frames a second.
        smooth: whether key points are.
    """

    skeleton: Skeleton
    fps: float
    smooth: bool = False
    _tracks: list[_Track] = field(default_factory=list)
    _last: int = 0

    def __call__(self, people: Sequence[Person]) -> tuple[Person, ...]:
        """The people of the next frame, in the same order, each with an identity, 1 and up."""
        known = [track.person for track in self._tracks]
        pairs = matched(known, people, self.skeleton, min_oks=MIN_OKS)
        track_of = {place: self._tracks[track] for track, place in pairs}
        for track in self._tracks:
            track.away += 1
        for place, person in enumerate(people):
            if place not in track_of:
                self._last += 1
                track_of[place] = _Track(self._last, person, OneEuro(self.fps))
                self._tracks.append(track_of[place])
            track_of[place].person, track_of[place].away = person, 0
        self._tracks = [t for t in self._tracks if t.away <= PATIENCE * self.fps]
        return tuple(self._shown(track_of[place], person) for place, person in enumerate(people))

    def _shown(self, track: _Track, person: Person) -> Person:
        keypoints = track.smooth(person.keypoints) if self.smooth else person.keypoints
        return replace(person, keypoints=keypoints, identity=track.number)
