"""What --maps says: heat=NAME[a:b]:nhwc,paf=…"""

from __future__ import annotations

import re

from graphopt.errors import UsageError
from graphopt.pose.map_slices import MapReading


def as_flag(reading: MapReading) -> str:
    """What --maps would say of a reading."""
    kinds = zip(("heat", "paf"), reading.slices, strict=False)
    return f"'{','.join(f'{kind}={maps}' for kind, maps in kinds)}'"


_KIND = re.compile(r",(?=(?:heat|paf)=)")


SLICE = re.compile(r"(?P<name>.+?)(?:\[(?P<first>\d+):(?P<end>\d+)\])?(?::(?P<layout>nchw|nhwc))?")


MAPS_HINT = "such as --maps heat=NAME,paf=NAME or 'heat=NAME[0:19],paf=NAME[19:57]'"


def parse_maps(text: str) -> dict[str, str]:
    """What --maps says, as `heat` and, where there are PAFs, `paf`: an output's name and the rest.

    Raises:
        UsageError: it is not written like that.
    """
    found: dict[str, str] = {}
    for entry in _KIND.split(text):
        kind, _, value = entry.partition("=")
        if kind not in ("heat", "paf") or not value or kind in found:
            raise UsageError(f"--maps {text}: not heat=NAME or heat=NAME,paf=NAME", hint=MAPS_HINT)
        found[kind] = value
    if "heat" not in found:
        raise UsageError(f"--maps {text}: without heat maps nobody is found", hint=MAPS_HINT)
    return found
