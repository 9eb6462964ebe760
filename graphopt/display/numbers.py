"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def human(count: int) -> str:
    """A count with three significant digits and a suffix: 4.10 M."""
    value = float(count)
    for suffix in ("", " k", " M", " G"):
        if value < 1000 or suffix == " G":
            break
        value /= 1000
    return f"{count}" if not suffix else f"{value:.{max(0, 3 - len(str(int(value))))}f}{suffix}"


def named_sizes(shapes: Mapping[str, Sequence[int]]) -> str:
    """Tensors and their shapes: data 1x3x368x656, …"""
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())


def part_of_whole(kept: int, whole: int) -> str:
    """What is left of a number, where that is not all."""
    some, every = human(kept), human(whole)
    return every if some == every else f"{some} of {every}"
