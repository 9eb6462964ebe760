"""Pipelines: passes in an order, as text and as objects, and running them.

The text form is `name, name{option=value, option=value}, …`; values with commas, braces or spaces
are quoted. `parse_pipeline` and `format_pipeline` are each other's inverse.
"""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from typing import Any, Literal, TypeAlias

import onnx_graphsurgeon as gs
from pydantic import TypeAdapter, ValidationError

from graphopt.compare import PoseChange, compare
from graphopt.cost import Cost, cost_of
from graphopt.engine import OnnxRuntimeEngine
from graphopt.errors import CheckFailed, GraphoptError, InputError
from graphopt.model import copy_model, serialised
from graphopt.passbase import Change, Context, Numerics, Outcome, Pass, Skip, options_of, type_text
from graphopt.registry import PassType, find_passes
from graphopt.verify import Verdict, Verifier, example_shapes, example_shapes_if_any

PRESETS: Mapping[str, str] = {
    # Same outputs, fewer nodes.
    "exact": "canonicalize, fold-batchnorm, canonicalize",
    # What a phone computes cheaply; the second fold takes in the factors that Swish leaves behind.
    "mobile": "canonicalize, fold-batchnorm, replace-swish, fold-batchnorm, canonicalize",
}

VerifyMode: TypeAlias = Literal["each", "end", "off"]
OnFail: TypeAlias = Literal["stop", "revert", "warn"]

_PASS = re.compile(r"\s*(?P<name>[\w-]+)\s*(?:\{(?P<options>(?:\"[^\"]*\"|[^\"{}])*)\})?\s*(?:,|$)")
_OPTION = re.compile(r"[\s,]*(?P<name>\w+)\s*=\s*(?:\"(?P<quoted>[^\"]*)\"|(?P<plain>[^\s,\"{}]+))")


# --- text ---------------------------------------------------------------------------------------


def parse_pipeline(text: str, known: Mapping[str, PassType] | None = None) -> list[Pass[Any]]:
    """Read a pipeline.

    Args:
        text: for example `fold-batchnorm, replace-swish{gate=hard}`.
        known: the passes to choose from, by name; without it all that are installed.

    Raises:
        InputError: for a pass, option or value that there is not, naming near matches.
    """
    known = find_passes() if known is None else known
    passes: list[Pass[Any]] = []
    position = 0
    while text[position:].strip():
        found = _PASS.match(text, position)
        if not found:
            raise InputError(
                f"the pipeline cannot be read from {text[position:].strip()!r} on",
                hint="write: name, name{option=value, option=value}",
            )
        position = found.end()
        pass_type = lookup(found["name"], known)
        passes.append(_build(pass_type, found["options"] or ""))
    return passes


def format_pipeline(passes: Iterable[Pass[Any]]) -> str:
    """The text that `parse_pipeline` reads as these passes; options at their defaults left out."""
    return ", ".join(str(p) for p in passes)


def lookup(name: str, known: Mapping[str, PassType]) -> PassType:
    """The pass of a name.

    Raises:
        InputError: when there is none, naming near matches.
    """
    if name not in known:
        raise InputError(
            f"there is no pass {name!r}", hint=_near(name, known, "graphopt passes list")
        )
    return known[name]


def _near(word: str, choices: Iterable[str], where: str) -> str:
    close = difflib.get_close_matches(word, list(choices), n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"see `{where}`"


def _build(pass_type: PassType, text: str) -> Pass[Any]:
    options = options_of(pass_type)
    given: dict[str, Any] = {}
    position = 0
    while text[position:].strip(" ,\t\n"):
        found = _OPTION.match(text, position)
        if not found:
            raise InputError(
                f"the options {{{text}}} of {pass_type.name} cannot be read",
                hint="write {option=value, option=value}",
            )
        position = found.end()
        name = found["name"]
        if name not in options:
            raise InputError(
                f"pass {pass_type.name} has no option {name!r}",
                hint=_near(name, options, f"graphopt passes show {pass_type.name}"),
            )
        value = found["plain"] if found["quoted"] is None else found["quoted"]
        try:
            given[name] = TypeAdapter(options[name].type).validate_strings(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise InputError(
                f"option {name} of {pass_type.name} cannot be {value!r}: {reason}",
                hint=f"it takes {type_text(options[name].type)}",
            ) from error
    missing = [n for n, o in options.items() if o.default is MISSING and n not in given]
    if missing:
        raise InputError(f"pass {pass_type.name} needs the option {missing[0]}")
    return pass_type(**given)


# --- running ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One pass of a run."""

    name: str
    """The pass with its options, as pipelines write it."""
    numerics: Numerics
    changes: tuple[Change, ...]
    skips: tuple[Skip, ...]
    difference: float | None
    """Of the outputs, to the original network's, relative to their range; None if not measured."""
    seconds: float
    """Of the pass itself, without its verification."""
    cost: Cost
    """Of the network after the pass."""
    poses: PoseChange | None
    """What it and all before it did to the poses in held-out images; None if not measured."""
    failure: str | None
    """Why its verification failed (`revert`, `warn`)."""
    reverted: bool


@dataclass(frozen=True)
class PipelineResult:
    """What a pipeline made of a network."""

    graph: gs.Graph
    steps: tuple[Step, ...]
    before: Cost
    after: Cost
    input_shapes: Mapping[str, tuple[int, ...]]
    """The sizes that MACs were counted and outputs compared at."""


def run_pipeline(
    graph: gs.Graph,
    passes: Sequence[Pass[Any]],
    *,
    context: Context | None = None,
    verify: VerifyMode = "each",
    on_fail: OnFail = "stop",
    max_shift: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> PipelineResult:
    """Run passes in order on a copy of a graph.

    Args:
        graph: the network; it is not changed.
        passes: what to run.
        context: what passes may know beside the graph; `original` is `graph` where it has none.
        verify: check the result after each pass, once at the end, or never.
        on_fail: what a failed check does: stop everything, take that pass back and go on, or go on.
            A pass that crashes is taken back in any case.
        max_shift: how far key points may move in the mean, in pixels of the network's input, on the
            calibration's held-out images. A pass that moves them further fails its check; where a
            later pass repairs (`reconstruct`), that one is judged, and both are taken back.
        progress: called with each pass's name before it runs, and with what long ones do.

    Raises:
        CheckFailed: (`on_fail="stop"`) naming the pass and the first tensor that departs.
        InputError: when the network cannot be run for its verification.
    """
    shapes = example_shapes_if_any(graph) if verify == "off" else example_shapes(graph)
    verifier = None if verify == "off" else Verifier(graph, shapes)
    context = replace(
        context or Context(),
        original=(context and context.original) or copy_model(graph),
        progress=progress,
    )
    current = approved = copy_model(graph)
    before = cost = cost_of(current, shapes)
    steps: list[Step] = []
    waiting = 0  # how many of the last steps are not in `approved`, since a later pass repairs them
    for index, chosen in enumerate(passes):
        progress(chosen.name)
        saved, current = current, copy_model(current)
        started = time.perf_counter()
        outcome, crash = _run(chosen, current, context)
        seconds = time.perf_counter() - started
        verdict, poses, over = Verdict(None, crash), None, False
        repaired_later = verify == "each" and any(p.repairs for p in passes[index + 1 :])
        if verifier and not crash and (verify == "each" or index == len(passes) - 1):
            numerics = chosen.numerics if verify == "each" else _loosest(passes)
            verdict = verifier.check(current, numerics)
            if numerics is not Numerics.EXACT and not verdict.failure:
                progress(f"{chosen.name}: the poses")
                poses = _judge(current, context)
        if poses and max_shift is not None and poses.mean_shift > max_shift and not repaired_later:
            over = True
            verdict = replace(verdict, failure=f"{poses} (allowed: {max_shift:g} pixels)")
        if verdict.failure and verify == "end" and not crash:
            # Only a check after each pass can tell which one it was.
            return run_pipeline(
                graph,
                passes,
                context=context,
                verify="each",
                on_fail=on_fail,
                max_shift=max_shift,
                progress=progress,
            )
        if verdict.failure and on_fail == "stop":
            raise CheckFailed(
                verdict.failure,
                pass_name=str(chosen),
                hint="leave it out with --skip-passes, or go on with --on-fail revert",
            )
        reverted = crash is not None or (verdict.failure is not None and on_fail == "revert")
        if reverted:
            current, outcome = approved if over else saved, Outcome((), outcome.skips)
        cost = cost_of(current, shapes)
        if reverted and over and verifier:
            verifier.rebase(current)
            first = len(steps) - waiting
            steps[first:] = [_taken_back(step, chosen, cost) for step in steps[first:]]
        if repaired_later:
            waiting += 1
        else:
            waiting, approved = 0, current
        steps.append(
            Step(
                name=str(chosen),
                numerics=chosen.numerics,
                changes=outcome.changes,
                skips=outcome.skips,
                difference=verdict.difference,
                seconds=seconds,
                cost=cost,
                poses=poses,
                failure=verdict.failure,
                reverted=reverted,
            )
        )
    return PipelineResult(current, tuple(steps), before, cost, shapes)


JUDGED = 40
"""Held-out images at most that poses are compared on after a pass."""


def _judge(graph: gs.Graph, context: Context) -> PoseChange | None:
    """What became of the poses in held-out images; None where there are no images."""
    if context.calibration is None or context.original is None:
        return None
    with serialised(context.original) as model, serialised(graph) as other:
        before, after = OnnxRuntimeEngine(model), OnnxRuntimeEngine(other)
    calibration = context.calibration
    feeds = calibration.feeds(calibration.held_out[:JUDGED])
    return compare(before, after, calibration.spec, feeds)


def _taken_back(step: Step, judged: Pass[Any], cost: Cost) -> Step:
    """A step that a later pass was to repair, and did not within the budget."""
    failure = step.failure or f"{judged.name} could not make up for it"
    return replace(step, changes=(), cost=cost, failure=failure, reverted=True)


def _run(chosen: Pass[Any], graph: gs.Graph, context: Context) -> tuple[Outcome, str | None]:
    """Run a pass; a crash, which may be a plug-in's, becomes a sentence."""
    try:
        return chosen.run(graph, context), None
    except GraphoptError as error:
        return Outcome((), ()), error.message
    except Exception as error:
        return Outcome((), ()), f"it crashed: {type(error).__name__}: {error}"


def _loosest(passes: Sequence[Pass[Any]]) -> Numerics:
    order = list(Numerics)
    return max((p.numerics for p in passes), key=order.index)
