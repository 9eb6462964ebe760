"""`graphopt compile`."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.commands import options as shared
from graphopt.commands.parameters import takes_options
from graphopt.commands.progress import shown
from graphopt.compiler.options import CompileOptions

if TYPE_CHECKING:
    from graphopt.compiler.compile import Compilation
    from graphopt.runtime.plan import Manifest


class Format(str, Enum):
    """What is written."""

    bundle = "bundle"
    tvm = "tvm"


@takes_options
def compile(
    *,
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The network.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="BUNDLE|NET.so",
            help="What to write; IN.graphopt (IN.so) beside the input if left out.",
        ),
    ] = None,
    format: Annotated[
        Format,
        typer.Option(
            help="bundle: a folder that needs no framework; tvm: the network alone as a library "
            "NAME.so for TVM's own runtime."
        ),
    ] = Format.bundle,
    options: CompileOptions,
    json: shared.Json = None,
) -> None:
    """Compile a network with TVM into a bundle for one input size, and check it."""
    if format is Format.bundle:
        _compile_bundle(model, output or model.with_suffix(".graphopt"), options, json)
        return
    low = options.fp16 or options.fp16_arithmetic or options.bf16 or options.calib
    lower = options.precision not in (None, "float32") or options.device
    if low or lower or options.require_full_gpu or options.on_fail == "warn":
        raise typer.BadParameter(
            "--format tvm is float32 and the network alone: leave out --fp16, "
            "--fp16-arithmetic, --bf16, --precision, --device, --calib, --require-full-gpu and "
            "--on-fail"
        )
    _compile_library(model, output or model.with_suffix(".so"), options, json)


def _compile_bundle(model: Path, output: Path, options: CompileOptions, json: str | None) -> None:
    from graphopt.compiler.compile import compile_model
    from graphopt.display.numbers import named_sizes
    from graphopt.display.tables import say

    with shown("reading the network") as tell:
        done = compile_model(model, output, options, progress=tell)
    _say_remarks(done)
    manifest, plan = done.manifest, done.plan
    size = sum(file.bytes for file in manifest.files.values())
    facts = {
        "output": str(output),
        **_facts(manifest, done.difference, size),
        "precision": done.precision,
        "kernel_launches": len(plan.launches),
        "working_bytes": sum(plan.arenas),
        "levels": [level.name for level in manifest.levels],
        "runs": manifest.runs,
    }
    if shared.put_json(json, facts):
        return
    precision = "" if done.precision == "float32" else f", {done.precision}"
    precision += ", stored in half precision" if options.fp16 else ""
    of_host = f" on {options.host}" if options.host else ""
    say(
        f"{output}: target {options.target}{of_host}{precision}, "
        f"input {named_sizes(manifest.inputs)}, {manifest.macs / 1e9:.2f} GMACs, "
        f"{len(plan.launches)} kernel launches, {size / 1e6:.1f} MB, "
        f"{sum(plan.arenas) / 1e6:.1f} MB of working memory"
    )
    if manifest.levels:
        names = ", ".join(level.name for level in manifest.levels)
        say(f"levels {names}: the best that a CPU has is chosen when the bundle is opened")
    if done.tuned_on is not None:
        say(f"kernels as measured on {done.tuned_on}")
    _say_difference(done.difference)
    if done.pose is not None and not options.host:
        say(f"next: graphopt run {shlex.quote(str(output))} PHOTO", style="green")


def _say_remarks(done: Compilation) -> None:
    """What a user should know of a bundle, on stderr."""
    from graphopt.compiler.stages import WHY_NOT
    from graphopt.display.tables import say

    for line in done.pose.guesses if done.pose else ():
        say(line, style="dim", stderr=True)
    for remark in done.remarks:
        say(remark, style="yellow", stderr=True)
    for what in done.kept:
        say(f"kept in float32: {what}", style="dim", stderr=True)
    if done.pose is None:
        say(
            "no pose maps recognised: the bundle can be timed, but not run on photos\n"
            f"  {done.unread}",
            style="yellow",
            stderr=True,
        )
    elif left := [s for s, place in done.manifest.runs.items() if place == "host"]:
        why = ", ".join(map(WHY_NOT.__getitem__, left))
        say(f"left to the host's CPU: {why}", style="yellow", stderr=True)


def _facts(manifest: Manifest, difference: float | str, size: int) -> dict[str, Any]:
    """What both formats say of themselves as JSON."""
    compared = isinstance(difference, float)
    return {
        "target": manifest.target.name,
        "host": manifest.target.host,
        "inputs": manifest.inputs,
        "outputs": manifest.outputs,
        "macs": manifest.macs,
        "bytes": size,
        "difference": difference if compared else None,
        "not_compared": None if compared else difference,
    }


def _compile_library(model: Path, output: Path, options: CompileOptions, json: str | None) -> None:
    from graphopt.compiler.tvm_library import compile_library
    from graphopt.display.numbers import named_sizes
    from graphopt.display.tables import say

    with shown("reading the network") as tell:
        done = compile_library(model, output, options, progress=tell)
    for remark in done.remarks:
        say(remark, style="yellow", stderr=True)
    for what in done.left_out:
        say(f"left out: {what}", style="dim", stderr=True)
    manifest = done.manifest
    facts = _facts(manifest, done.difference, done.bytes)
    if shared.put_json(json, {"output": str(output), **facts}):
        return
    say(
        f"{output}: target {manifest.target.name} on {manifest.target.host}, "
        f"input {named_sizes(manifest.inputs)}, {manifest.macs / 1e9:.2f} GMACs, "
        f"{done.bytes / 1e6:.1f} MB"
    )
    _say_difference(done.difference)


def _say_difference(difference: float | str) -> None:
    from graphopt.display.tables import say

    if isinstance(difference, float):
        say(f"outputs equal onnxruntime's within {difference:.0e} of their range")
    else:
        say(f"not compared with onnxruntime: {difference}", style="yellow", stderr=True)
