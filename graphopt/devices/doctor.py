"""What this machine has of all that graphopt can use, and what for.

Nothing here may fail where a machine is half broken: every part is looked for by itself, on its own
thread, and what may crash or hang in a process of its own. So this module imports the standard
library alone, and parts of graphopt that do.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.devices.parts import EVERY, Missing, Part
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from graphopt.display.tables import Grid


@dataclass(frozen=True)
class Finding:
    """What became of looking for a part: `found` says what is there, or what is wrong."""

    part: Part
    ok: bool
    found: str


def examine(wanted: Sequence[Part]) -> list[Finding]:
    """Look for parts, all at once; what goes wrong is a finding."""
    with ThreadPoolExecutor(len(wanted)) as pool:
        return list(pool.map(_examine, wanted))


def _examine(part: Part) -> Finding:
    try:
        return Finding(part, True, part.find())
    except Missing as missing:
        reason = str(missing)
    except GraphoptError as error:
        reason = error.message
    except Exception as error:  # whatever a broken machine may raise
        reason = f"{type(error).__name__}: {error}"
    return Finding(part, False, reason.splitlines()[0])


def broken(findings: Sequence[Finding]) -> list[str]:
    """The names of parts that are missing and that every command needs."""
    return [f.part.name for f in findings if not f.ok and f.part.needed_for == EVERY]


def to_json(findings: Sequence[Finding]) -> list[dict[str, object]]:
    """The JSON form of `graphopt doctor --json`, which is stable."""
    return [
        {
            "name": finding.part.name,
            "ok": finding.ok,
            "found": finding.found,
            "needed_for": finding.part.needed_for,
            "install": finding.part.install,
        }
        for finding in findings
    ]


def table(findings: Sequence[Finding]) -> Grid:
    """The findings for people."""
    from rich.text import Text

    from graphopt.display.tables import Grid, Kind

    words = dict.fromkeys(("", "found", "needed for", "to get it"), Kind.WORDS)
    shown = Grid({"part": Kind.KEY, **words})
    for finding in findings:
        shown.add(
            finding.part.name,
            Text("ok", "green") if finding.ok else Text("missing", "red"),
            Text(finding.found),
            finding.part.needed_for,
            Text("" if finding.ok else finding.part.install),
        )
    return shown
