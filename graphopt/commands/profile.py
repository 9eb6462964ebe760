"""`graphopt profile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.bench.options import ProfileOptions
from graphopt.commands import options as shared
from graphopt.commands.parameters import takes_options
from graphopt.commands.progress import shown
from graphopt.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphopt.analysis.latency.device import Device


@takes_options
def profile(
    *,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE.toml", help="The profile to write.")
    ],
    device: Annotated[
        str, typer.Option(help="What to measure: local, this machine.", metavar="local")
    ] = "local",
    options: ProfileOptions,
    json: shared.Json = None,
) -> None:
    """Measure this machine for `inspect --device FILE.toml`, in every precision; some minutes."""
    from graphopt.bench.device_profile import profile_machine
    from graphopt.bench.profile_file import write_device
    from graphopt.display.tables import console, say

    if device != "local":
        raise UsageError(
            f"the device {device!r} cannot be measured from here", hint="--device local"
        )
    with shown("making a network of every class of layer") as tell:
        measured = profile_machine(options, progress=tell)
    write_device(measured.device, output)
    if shared.put_json(json, measured.device.to_plain()):
        return
    console().print(_table(measured.device))
    errors = "".join(f", {name} {error:.0%}" for name, error in measured.errors.items())
    say(
        f"{output}: fitted to {measured.kernels} kernels, mean error {measured.error:.0%}{errors}; "
        "another program on this machine makes it worse"
    )
    for gap in measured.device.unknown:
        say(f"not measured: {gap}", style="yellow", stderr=True)


def _table(device: Device) -> RenderableType:
    """The figures, a column for each precision."""
    from graphopt.display.tables import Grid, Kind

    tables = {"float32": device.rates, **device.precisions}
    grid = Grid({"GFLOP/s and the like": Kind.WORDS} | dict.fromkeys(tables, Kind.NUMBER))
    for kind in device.rates:
        cells = (table.get(kind) for table in tables.values())
        grid.add(kind.value, *(f"{cell.value:g}" if cell else "" for cell in cells))
    for name, figure in (("bandwidth, GB/s", device.bandwidth), ("launch, us", device.launch)):
        grid.add(name, f"{figure.value:g}", *[""] * len(device.precisions))
    return grid
