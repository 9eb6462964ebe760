"""The precision that a bundle is compiled for: which go together, how far outputs may be off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_graphsurgeon as gs

from graphopt.codegen.targets import check_bfloat16, check_half_arithmetic
from graphopt.compiler.auto_precision import predicted_fastest
from graphopt.compiler.bfloat16 import bfloat16_agreement
from graphopt.compiler.comparison import STORED_TOLERANCE, agreement_with_onnxruntime
from graphopt.compiler.levels import levels_for
from graphopt.compiler.options import CompileOptions
from graphopt.errors import UsageError
from graphopt.ir.arrays import Feeds
from graphopt.runtime.differences import Agreement
from graphopt.runtime.steps import is_quantised


def in_halves(options: CompileOptions) -> bool:
    """Whether the bundle stores in half precision."""
    return options.fp16 or options.fp16_arithmetic


def check_precision(options: CompileOptions) -> None:
    """Refuse precisions that do not go together, or that the CPU has no instructions for.

    Raises:
        UsageError, Unsupported: says which.
    """
    said = options.precision not in (None, "auto") or options.bf16 or options.fp16_arithmetic
    if options.device is not None and said:
        raise UsageError("--device is for --precision auto", hint="leave out either")
    if options.precision is not None and (options.bf16 or options.fp16_arithmetic):
        raise UsageError(
            "--precision says what --bf16 and --fp16-arithmetic say", hint="leave out those"
        )
    if options.bf16 and in_halves(options):
        raise UsageError(
            "--bf16 and --fp16 are two precisions for the same numbers", hint="leave out one"
        )
    checks = {check_bfloat16: options.bf16, check_half_arithmetic: options.fp16_arithmetic}
    for check in (check for check, asked in checks.items() if asked):
        for level in levels_for(options, quantised=False) or [options.cpu_features]:
            check(options.target, options.host, level.replace("+", ","))


def with_precision(options: CompileOptions, graph: gs.Graph) -> tuple[CompileOptions, list[str]]:
    """The options that `--precision` stands for, and remarks on that.

    Args:
        options: what was asked for; `auto` only where it is predicted, or cannot be measured.
        graph: what is compiled.

    Raises:
        UsageError: the network cannot be computed in it.
        Unsupported: the CPU has no instructions for it.
    """
    asked = options.precision or ("auto" if options.device else None)
    remarks: list[str] = []
    if is_quantised(graph):
        if asked not in (None, "auto", "int8", "float32"):
            raise UsageError(
                f"the network is quantised: it is computed in int8, not in {asked}",
                hint="compile the network that it was made of",
            )
        floats = options.dequantize or asked == "float32"
        return replace(options, precision=None, dequantize=floats), remarks
    if asked == "int8":
        raise UsageError(
            "int8 is for quantised networks",
            hint="graphopt optimize --int8 --calib PHOTOS makes one",
        )
    if asked == "auto":
        asked = "float32"
        if options.device is not None:
            asked, told = predicted_fastest(graph, options)
        else:
            told = "float32: nothing says how fast another machine is; name its profile by --device"
        remarks.append(f"precision {told}")
    chosen = replace(
        options,
        precision=None,
        device=None,
        bf16=options.bf16 or asked == "bfloat16",
        fp16_arithmetic=options.fp16_arithmetic or asked == "float16",
    )
    check_precision(chosen)
    return chosen, remarks


def told_precision(options: CompileOptions, graph: gs.Graph) -> str:
    """What a bundle's convolutions compute in."""
    if is_quantised(graph) and not options.dequantize:
        return "int8"
    if options.bf16:
        return "bfloat16"
    return "float16" if options.fp16_arithmetic else "float32"


def shown_photos(options: CompileOptions, graph: gs.Graph) -> bool:
    """Whether a bundle is compared with onnxruntime on photos, and by people.

    Raises:
        UsageError: bfloat16, or a CPU's float16, of a network whose file says what is 8 bits.
    """
    quantised = is_quantised(graph)
    if quantised and options.fp16_arithmetic and options.target == "cpu" and not options.dequantize:
        raise UsageError(
            "--fp16-arithmetic on a CPU is for networks of floats, and this one is quantised",
            hint="add --dequantize, or compile it without --fp16-arithmetic",
        )
    if quantised and options.bf16:
        raise UsageError(
            "--bf16 is for networks of float32, and this one is quantised",
            hint="compile it without --bf16, or the network that it was made of with it",
        )
    return quantised or options.bf16


def agreement_of(
    options: CompileOptions,
    graph: gs.Graph,
    inputs: Sequence[Sequence[Feeds]],
    outputs: Sequence[Sequence[Feeds]],
) -> Agreement:
    """Compare a bundle's outputs with onnxruntime's, as its precision lets them differ.

    Args:
        options: what was asked for.
        graph, inputs, outputs: as in `comparison.agreement_with_onnxruntime`.
    """
    if options.bf16:
        return bfloat16_agreement(graph, inputs, outputs)
    limit = STORED_TOLERANCE if in_halves(options) else None
    return agreement_with_onnxruntime(graph, inputs, outputs, limit)


def remedy(options: CompileOptions) -> str:
    """What to do about outputs that differ too much, where precision may be why; "" otherwise."""
    if in_halves(options):
        return "show it photos with --calib, or compile it without --fp16"
    return "compile it without --bf16" if options.bf16 else ""
