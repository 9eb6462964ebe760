"""Wishes of `graphopt optimize` that leave it open by what they are fulfilled."""

from __future__ import annotations

from dataclasses import fields

from graphopt.errors import UsageError
from graphopt.optimizer.options import OptimizeOptions

WISHES = ("speedup", "latency_ms", "max_ap_drop")
"""Options that say how fast or how accurate a network is to be."""
ONLY_WITH = ("budget_minutes", "annotations", "images")
"""Options of the search for a wish."""
TAKEN = ("preset", "device", "calib", "calib_photos", "pose", "input_shape", *WISHES, *ONLY_WITH)
"""Options that the search heeds."""
LEVERS = {"int8": "whether eight bits pay", "input_shape": "the input's size"}
"""Options that settle what the search is to choose."""


def wishes(options: OptimizeOptions) -> dict[str, float]:
    """What is wished for, by the options' names as `search --pick` has them.

    Empty where a pipeline is named, which wishes are goals of pruning for (`compression` counts as
    one), and for the budget of `int8`.
    """
    given = {
        name.replace("_", "-"): float(value)
        for name in WISHES
        if (value := getattr(options, name)) is not None
    }
    named = options.preset not in (None, "mobile") or options.passes is not None
    if named or options.compression is not None or (options.int8 and [*given] == ["max-ap-drop"]):
        return {}
    return given


def check_wishes(options: OptimizeOptions) -> None:
    """Refuse options that have no place beside a wish, or none without one.

    Raises:
        UsageError: names one.
    """
    asked = wishes(options)
    if not asked:
        for name in ONLY_WITH:
            if getattr(options, name) is not None:
                raise UsageError(
                    f"{_flag(name)} goes with --speedup, --latency-ms or --max-ap-drop",
                    hint="without --preset exact, --passes and --compression, which name what is "
                    "done, and without --int8 --max-ap-drop, which has photos of its own",
                )
        return
    wish = f"--{next(iter(asked))}"
    if options.calib is None:
        raise UsageError(
            f"{wish} tries networks that are fitted to photos and judged on others",
            hint="give a folder of photos with --calib; labels are not needed",
        )
    if (options.annotations is None) != (options.images is None):
        raise UsageError("--annotations and --images go together")
    for one in fields(options):
        value = getattr(options, one.name)
        if value == one.default or (one.name in TAKEN and one.name not in LEVERS):
            continue
        if (one.name, value) == ("input_shape", ("dynamic",)):
            continue
        what = LEVERS.get(one.name, "what is done, and checks that,")
        raise UsageError(
            f"{wish} and {_flag(one.name)} contradict each other: {wish} chooses {what} itself",
            hint=f"leave out one; with --preset exact, {wish} is reached by pruning alone",
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
