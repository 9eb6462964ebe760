"""`graphopt compile`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.commands import options
from graphopt.commands.progress import shown

if TYPE_CHECKING:
    from graphopt.runtime.bundle import Manifest


class Post(str, Enum):
    """What follows a network in its bundle."""

    paf = "paf"
    none = "none"


class Format(str, Enum):
    """What is written."""

    bundle = "bundle"
    tvm = "tvm"


class OnFail(str, Enum):
    """What a comparison that fails does."""

    stop = "stop"
    warn = "warn"


def compile(
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
    target: Annotated[
        str,
        typer.Option(
            help="cpu: this machine's, as wide as its vectors, or that of --host; opencl: any "
            "device; mali; adreno: OpenCL with input as images."
        ),
    ] = "cpu",
    host: Annotated[
        str,
        typer.Option(
            help="The machine that the bundle is for: aarch64-linux-android, aarch64-linux-gnu; "
            "this one if left out.",
            metavar="TRIPLE",
        ),
    ] = "",
    input_shape: options.InputShape = None,
    tuning: Annotated[
        str,
        typer.Option(
            help="Which kernels: auto, those that tune found fastest here; off, those estimated to "
            "be; or a tuning file.",
            metavar="auto|off|FILE",
        ),
    ] = "auto",
    fp16: Annotated[
        bool,
        typer.Option("--fp16", help="Store weights, on opencl activations too, in half precision."),
    ] = False,
    fp16_arithmetic: Annotated[
        bool,
        typer.Option(
            "--fp16-arithmetic",
            help="Compute in half precision too, on a GPU that can (cl_khr_fp16).",
        ),
    ] = False,
    calib: Annotated[
        Path | None,
        typer.Option(
            help="Photos that show what half precision cannot hold; made-up images if left out.",
            metavar="DIR",
        ),
    ] = None,
    calib_photos: Annotated[int, typer.Option(min=1, help="How many of them at most.")] = 20,
    post: Annotated[
        Post, typer.Option(help="What follows a pose network: paf, a decoder's kernels; or none.")
    ] = Post.paf,
    max_people: Annotated[
        int, typer.Option(min=1, help="People that the decoder keeps: the best of more.")
    ] = 128,
    max_peaks: Annotated[
        int, typer.Option(min=1, help="Candidates that it keeps for each part: the best of more.")
    ] = 128,
    max_photo: Annotated[
        int,
        typer.Option(
            min=0,
            help="Most pixels of a photo's side that kernels scale and pad; larger ones are scaled "
            "by Pillow. 0: all are.",
        ),
    ] = 1920,
    require_full_gpu: Annotated[
        bool,
        typer.Option("--require-full-gpu", help="Fail if anything would be left to a CPU."),
    ] = False,
    on_fail: Annotated[
        OnFail,
        typer.Option(
            help="If it differs from onnxruntime: stop, or write it with a warning; the manifest "
            "says so."
        ),
    ] = OnFail.stop,
    skeleton: options.Skeleton = None,
    maps: options.Maps = None,
    color: options.Color = None,
    mean: options.Mean = None,
    scale: options.Scale = None,
    pad_value: options.PadValue = None,
    json: options.Json = None,
) -> None:
    """Compile a network with TVM into a bundle for one input size, and check it."""
    from graphopt.compiler.compile import WHY_NOT, compile_model
    from graphopt.compiler.tuning_cache import find_tuning
    from graphopt.display.numbers import named_sizes
    from graphopt.display.tables import say
    from graphopt.ir.input_shapes import parse_input_shapes
    from graphopt.pose.spec import choices

    output = output or model.with_suffix(".so" if format is Format.tvm else ".graphopt")
    # What was measured here is not true elsewhere.
    measured = find_tuning("off" if host and tuning == "auto" else tuning, target)
    given: dict[str, Any] = {
        "target": target,
        "host": host,
        "input_shapes": parse_input_shapes(input_shape or []),
        "tuned": measured.layers if measured else {},
        "pose_choices": choices(skeleton, color, mean, scale, pad_value, maps),
    }
    if format is Format.tvm:
        if fp16 or fp16_arithmetic or calib or require_full_gpu or on_fail is OnFail.warn:
            raise typer.BadParameter(
                "--format tvm is float32 and the network alone: leave out --fp16, "
                "--fp16-arithmetic, --calib, --require-full-gpu and --on-fail"
            )
        _library(model, output, given, json)
        return
    with shown("reading the network") as tell:
        done = compile_model(
            model,
            output,
            **given,
            fp16=fp16,
            half_arithmetic=fp16_arithmetic,
            calib=calib,
            calib_photos=calib_photos,
            post=post.value,
            limits={"max_people": max_people, "max_peaks": max_peaks},
            max_photo=max_photo,
            require_full_gpu=require_full_gpu,
            on_fail=on_fail.value,
            progress=tell,
        )
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
    size = sum(file.bytes for file in done.manifest.files.values())
    precision = ", half precision" if fp16 or fp16_arithmetic else ""
    of_host = f" on {host}" if host else ""
    if options.put_json(
        json,
        {
            "output": str(output),
            **_facts(done.manifest, done.difference, size),
            "kernel_launches": len(done.plan.launches),
            "working_bytes": sum(done.plan.arenas),
            "runs": done.manifest.runs,
        },
    ):
        return
    say(
        f"{output}: target {target}{of_host}{precision}, "
        f"input {named_sizes(done.manifest.inputs)}, {done.manifest.macs / 1e9:.2f} GMACs, "
        f"{len(done.plan.launches)} kernel launches, {size / 1e6:.1f} MB, "
        f"{sum(done.plan.arenas) / 1e6:.1f} MB of working memory"
    )
    if measured:
        say(f"kernels as measured on {measured.device}")
    _say_difference(done.difference)
    if done.pose is not None and not host:
        say(f"next: graphopt run {shlex.quote(str(output))} PHOTO", style="green")


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


def _library(model: Path, output: Path, given: Mapping[str, Any], json: str | None) -> None:
    from graphopt.compiler.tvm_library import compile_library
    from graphopt.display.numbers import named_sizes
    from graphopt.display.tables import say

    with shown("reading the network") as tell:
        done = compile_library(model, output, **given, progress=tell)
    for remark in done.remarks:
        say(remark, style="yellow", stderr=True)
    for what in done.left_out:
        say(f"left out: {what}", style="dim", stderr=True)
    manifest = done.manifest
    facts = _facts(manifest, done.difference, done.bytes)
    if options.put_json(json, {"output": str(output), **facts}):
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
