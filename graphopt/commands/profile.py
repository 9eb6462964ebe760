"""`graphopt profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.bench.options import ProfileOptions
from graphopt.commands import options as shared
from graphopt.commands.parameters import takes_options
from graphopt.commands.progress import shown
from graphopt.errors import UsageError


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
    """Measure this machine for `inspect --device FILE.toml`, in a minute or three."""
    from graphopt.bench.device_profile import profile_machine
    from graphopt.bench.profile_file import write_device
    from graphopt.display.tables import say

    if device != "local":
        raise UsageError(
            f"the device {device!r} cannot be measured from here", hint="--device local"
        )
    with shown("making a network of every class of layer") as tell:
        measured = profile_machine(options, progress=tell)
    write_device(measured.device, output)
    figures = [
        *((kind.value, figure) for kind, figure in measured.device.rates.items()),
        ("bandwidth, GB/s", measured.device.bandwidth),
        ("launch, us", measured.device.launch),
    ]
    if shared.put_json(json, measured.device.to_plain()):
        return
    for name, figure in figures:
        say(f"{name:18} {figure.value:g}")
    say(
        f"{output}: fitted to {measured.kernels} kernels, mean error {measured.error:.0%}; "
        "another program on this machine makes it worse"
    )
