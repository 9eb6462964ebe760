"""Options of the command `search`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from graphopt.display.options import Option, Panel
from graphopt.pose.options import PoseOptions

LEVERS = ("height", "int8", "stages", "channels", "blocks")
"""What may be changed: the input's height, eight bits, how many refinement stages there are, how
many channels, and which blocks of weights are zero."""
LOCAL = "local"
"""The device that is this machine: candidates are compiled for its CPU, run and timed."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What is searched, on which photos, and for how long.

    Networks are fitted to `calib_photos` of the folder `calib`, and judged on `photos` others of it
    that nothing was fitted on; with `annotations` on the first `photos` annotated ones in `images`
    instead. `levers` are names of `LEVERS`.
    """

    calib: Annotated[
        Path,
        Option("Photos, no labels: some to fit networks to, others to judge.", Panel.PHOTOS, "DIR"),
    ]
    calib_photos: Annotated[
        int, Option("How many of them networks are fitted to, at most.", Panel.PHOTOS, min=5)
    ] = 200
    photos: Annotated[
        int, Option("How many others they are judged on, at most.", Panel.PHOTOS, min=5)
    ] = 100
    annotations: Annotated[
        Path | None,
        Option(
            "COCO key points of the photos in --images: then AP is real.", Panel.PHOTOS, "F.json"
        ),
    ] = None
    images: Annotated[
        Path | None, Option("The photos that --annotations is of.", Panel.PHOTOS, "DIR")
    ] = None
    device: Annotated[
        str,
        Option(
            "What it is to be fast on: local, this CPU, measured; else a profile, predicted.",
            Panel.TARGET,
            "local|NAME|F.toml",
        ),
    ] = LOCAL
    threads: Annotated[
        int | None, Option("CPU threads; every core if left out.", Panel.SIZE, min=1)
    ] = None
    levers: Annotated[
        tuple[str, ...],
        Option(
            "What may be changed; exact rewrites and the precision always are.",
            Panel.PASSES,
            "A,B",
            separator=",",
        ),
    ] = LEVERS
    heights: Annotated[
        tuple[int, ...],
        Option(
            "Input heights to try, the largest as the original's; if left out, the usual one, and "
            "steps down to half of it.",
            Panel.SIZE,
            "H,H",
            separator=",",
        ),
    ] = ()
    budget_minutes: Annotated[
        float | None,
        Option("Stop after so long, with what was found until then.", Panel.MEASUREMENT, min=1),
    ] = None
    pick: Annotated[
        str | None,
        Option(
            "Write the best network for a wish, and its bundle: max-ap-drop=0.01 (the fastest), "
            "speedup=2 or latency-ms=20 (the most accurate), or several with commas.",
            Panel.WRITTEN,
            "WISH",
        ),
    ] = None
    pose: PoseOptions = field(default_factory=PoseOptions)
