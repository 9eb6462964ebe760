"""Options of the commands `compare` and `inspect`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from graphopt.display.options import Option, Panel
from graphopt.ir.options import InputShape
from graphopt.pose.options import EngineOptions


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """The photos that two networks are compared on, and how they run.

    `limit` takes photos by name.
    """

    images: Annotated[Path, Option("Folder of photos; no labels.", Panel.PHOTOS, "DIR")]
    limit: Annotated[
        int | None, Option("Only the first N photos, by name.", Panel.PHOTOS, min=1)
    ] = None
    running: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """At which size networks are looked at, and for which device times are predicted."""

    input_shape: InputShape = ()
    device: Annotated[
        str | None,
        Option(
            "Predict every layer's time on this device: adreno-640 …, or your own profile.",
            Panel.TARGET,
            "NAME|F.toml",
        ),
    ] = None
