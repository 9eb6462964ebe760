"""The precision that a bundle is compiled for: which go together, how far outputs may be off."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from graphopt.codegen.targets import check_bfloat16
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
    if not options.bf16:
        return
    if in_halves(options):
        raise UsageError(
            "--bf16 and --fp16 are two precisions for the same numbers", hint="leave out one"
        )
    for level in levels_for(options, quantised=False) or [options.cpu_features]:
        check_bfloat16(options.target, options.host, level.replace("+", ","))


def shown_photos(options: CompileOptions, graph: gs.Graph) -> bool:
    """Whether a bundle is compared with onnxruntime on photos, and by people.

    Raises:
        UsageError: bfloat16 of a network whose file says what is 8 bits.
    """
    quantised = is_quantised(graph)
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
