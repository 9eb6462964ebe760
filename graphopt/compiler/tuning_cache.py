"""Which kernel is fastest for each convolution, measured on a device and kept in a file for it.

`graphopt tune` writes the file, `graphopt compile` reads it.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from graphopt.codegen.jobs.records import Tuned
from graphopt.compiler.options import CompileOptions
from graphopt.errors import InputError, Unsupported
from graphopt.ir.files import replacing
from graphopt.ir.records import Record, complaint
from graphopt.runtime.opencl import device_name

FORMAT = 1
"""Raised when a file made before means something else now."""


@dataclass(frozen=True, kw_only=True)
class Tuning(Record):
    """A tuning file: the fastest way to compute each convolution that was measured."""

    format: int = FORMAT
    target: str
    device: str
    layers: dict[str, Tuned]


def tuning_path(target: str, device: str) -> Path:
    """Where the tuning of a device is kept: the user's cache folder (XDG_CACHE_HOME)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return cache / "graphopt" / "tuning" / f"{target}-{slug}.json"


def read_tuning(path: Path, target: str) -> Tuning:
    """Read a tuning file.

    Raises:
        InputError: it is none, or one for another target or version; says which.
    """
    try:
        tuning = Tuning.from_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read the tuning file {path}: {error.strerror}") from error
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InputError(
            f"{path} is no tuning file: {where}: {complaint(error)}",
            hint="graphopt tune makes one; remove this",
        ) from error
    if tuning.format != FORMAT or tuning.target != target:
        raise InputError(
            f"{path} is for target {tuning.target}, format {tuning.format}; "
            f"this is target {target}, format {FORMAT}",
            hint="graphopt tune makes it anew",
        )
    return tuning


def write_tuning(tuning: Tuning, path: Path) -> None:
    """Write a tuning file, whole or not at all."""
    with replacing(path) as fresh:
        fresh.write_text(json.dumps(tuning.to_plain(), indent=1) + "\n")


def find_tuning(choice: str, target: str) -> Tuning | None:
    """The tuning that a user chose.

    Args:
        choice: `auto`, this machine's if there is one; `off`; or a file.
        target: what is compiled for.

    Raises:
        InputError: the file is not there, or is no tuning file for the target.
    """
    if choice == "off":
        return None
    if choice != "auto":
        return read_tuning(Path(choice), target)
    try:
        path = tuning_path(target, device_name(target))
    except Unsupported:  # no such device: it is compiled for another machine
        return None
    return read_tuning(path, target) if path.exists() else None


def tuning_for(options: CompileOptions) -> Tuning | None:
    """The tuning that a network is compiled with.

    Raises:
        InputError: see `find_tuning`.
    """
    # What was measured here is not true elsewhere, and of float32 not of a CPU's float16.
    away = options.host or options.cpu_features or options.cpu_levels
    halves = options.target == "cpu" and (options.fp16_arithmetic or options.precision == "float16")
    off = (away or halves) and options.tuning == "auto"
    return find_tuning("off" if off else options.tuning, options.target)


def measured_kernels(tuning: Tuning | None) -> dict[str, Any]:
    """The kernels that were measured, by the convolution's key, for the compiler's process."""
    return {key: one.to_plain() for key, one in tuning.layers.items()} if tuning else {}
