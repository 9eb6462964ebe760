"""Device profiles written as TOML."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphopt.analysis.latency.device import Device
from graphopt.ir.files import replacing

_UNITS = {
    "bandwidth": "GB/s",
    "launch": "microseconds",
    "peak": "GFLOP/s",
    "exponential": "1e9 a second",
    "exponential_alone": "1e9 a second",
    "reduction": "1e9 elements read a second",
    "resize": "1e9 elements read a second",
}


def write_device(device: Device, path: Path) -> None:
    """Write a profile as TOML, whole or not at all; `load_device` reads it.

    Raises:
        InputError: the file cannot be written.
    """
    with replacing(path) as fresh:
        fresh.write_text("\n".join(_toml(device)) + "\n", encoding="utf-8")


def _toml(device: Device) -> Iterator[str]:
    # JSON's strings and numbers are TOML's too.
    plain = device.to_plain(exclude_none=True)
    del plain["name"]  # that of the file
    figures = {name: value for name, value in plain.items() if isinstance(value, dict)}
    rates, precisions = figures.pop("rates"), figures.pop("precisions")
    for name, value in plain.items():
        if not isinstance(value, dict) and value != []:
            yield f"{name} = {json.dumps(value, ensure_ascii=False)}"
    for name, figure in figures.items():
        yield from _toml_table(name, figure, _UNITS.get(name))
    tables = {"rates": rates, **{f"precisions.{name}": of for name, of in precisions.items()}}
    for table, of_table in tables.items():
        for kind, figure in of_table.items():
            yield from _toml_table(f"{table}.{kind}", figure, _UNITS.get(kind, "GFLOP/s"))


def _toml_table(name: str, figure: dict[str, Any], unit: str | None) -> Iterator[str]:
    yield f"\n[{name}]" + (f" # {unit}" if unit else "")
    for key, value in figure.items():
        yield f"{key} = {json.dumps(value, ensure_ascii=False)}"
