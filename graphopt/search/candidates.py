"""What can be changed about a network: its rewriting, its precision, and the photo's height."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.analysis.latency.device import Precision
from graphopt.errors import UsageError
from graphopt.optimizer.options import OptimizeOptions
from graphopt.search.options import LEVERS, SearchOptions

CHANNELS = (0.1, 0.2, 0.35)
"""Parts of the channels that go."""
COMPRESSIONS = (1.25, 1.5, 2.0)
"""Times fewer multiply-adds that pruning by blocks reaches."""
HEIGHTS = 12
"""The input's height is made smaller by this part of it, again and again."""
FINE = 2
"""Steps in one of those where little is tried at each, since a speed is wished for."""
LEAST = 0.5
"""The part of the height that is left at least."""


@dataclass(frozen=True)
class Rewriting:
    """What is done to a network behind the preset `exact`.

    Args:
        passes: a pipeline.
        compression: times fewer multiply-adds that pruning by blocks reaches; None: no such.
    """

    passes: str = ""
    compression: float | None = None

    @property
    def plain(self) -> bool:
        """Whether nothing is lost by it."""
        return self == Rewriting()

    def pipeline(self, *, int8: bool) -> str:
        """In a line: the preset, the passes, and targets in the place of the passes for them."""
        blocks = self.compression and f"prune-blocks{{compression={self.compression}}}"
        repair = "reconstruct" if blocks else ""
        parts = ("exact", blocks, repair, self.passes, "quantize" if int8 else "")
        return ", ".join(part for part in parts if part)

    def options(self, searched: SearchOptions, *, int8: bool, dynamic: bool) -> OptimizeOptions:
        """How `optimize` makes it."""
        return OptimizeOptions(
            preset="exact",
            passes=self.passes or None,
            compression=self.compression,
            int8=int8,
            calib=None if self.plain and not int8 else searched.calib,
            calib_photos=searched.calib_photos,
            input_shape=("dynamic",) if dynamic else (),
            pose=searched.pose,
        )


@dataclass(frozen=True)
class Candidate:
    """A network as it may be used."""

    height: int
    """Of its input, in pixels."""
    precision: Precision
    rewriting: Rewriting = Rewriting()

    @property
    def int8(self) -> bool:
        """Whether the file itself is quantised."""
        return self.precision == "int8"

    @property
    def pipeline(self) -> str:
        """What is done to the file."""
        return self.rewriting.pipeline(int8=self.int8)

    @property
    def plain(self) -> bool:
        """Whether it is the network as it was, at most of a smaller photo and another precision."""
        return self.rewriting.plain

    def __str__(self) -> str:
        return f"{self.height} {self.precision} {self.pipeline}"


def rewritings(stages: int, levers: Sequence[str]) -> list[Rewriting]:
    """What may be done to a network, what is surest to pay first.

    Args:
        stages: refinement stages that it has, the initial one included; 1 for other networks.
        levers: names of `options.LEVERS`.

    Raises:
        UsageError: there is no such lever.
    """
    for name in levers:
        if name not in LEVERS:
            raise UsageError(f"there is no lever {name!r}", hint=f"of {', '.join(LEVERS)}")
    shorter = range(stages - 1, 0, -1) if "stages" in levers else ()
    cuts = [f"truncate-refinement{{stages={left}}}" for left in shorter]
    thinner = [f"prune-channels{{ratio={part}}}" for part in CHANNELS if "channels" in levers]
    times = [value for value in COMPRESSIONS if "blocks" in levers]
    lossy = [*cuts, *thinner, *(f"{cut}, {thin}" for cut in cuts[:1] for thin in thinner[:2])]
    return [
        Rewriting(),
        *(Rewriting(f"{passes}, reconstruct") for passes in lossy),
        *(Rewriting(compression=value) for value in times),
    ]


def heights(usual: int, multiple: int, wanted: Sequence[int], *, fine: bool = False) -> list[int]:
    """Heights to try, the original's first, from there down.

    Args:
        usual: the height that the network is used at.
        multiple: what heights are multiples of.
        wanted: what the user asks for; without it, the usual one, and steps down to `LEAST` of it.
        fine: whether those steps are small.

    Raises:
        UsageError: one is no multiple.
    """
    for height in wanted:
        if height % multiple or height <= 0:
            raise UsageError(
                f"--heights: {height} is none that this network takes",
                hint=f"multiples of {multiple}; the usual one is {usual}",
            )
    step = max(1, round(usual / (HEIGHTS * (FINE if fine else 1)) / multiple)) * multiple
    return sorted(set(wanted or range(usual, int(usual * LEAST), -step)), reverse=True)
