"""The plain function behind `graphopt optimize`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from graphopt import __version__
from graphopt.analysis.latency.device import load_device
from graphopt.display.numbers import named_sizes
from graphopt.errors import GraphoptError, InputError, UsageError
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.checkpoint import resumable
from graphopt.ir.files import replacing, sha256_of
from graphopt.ir.graph import static_shape
from graphopt.ir.header import judged_at
from graphopt.ir.onnx_io import load_model, save_model
from graphopt.optimizer.pass_contract import Context, Pass
from graphopt.optimizer.pipeline import OnFail, VerifyMode, run_pipeline
from graphopt.optimizer.prune_to_target import TIMES, PruneToTarget, Targets
from graphopt.optimizer.registry import PassType, find_passes
from graphopt.optimizer.report import Report
from graphopt.optimizer.sensitivity_file import read_sensitivity
from graphopt.optimizer.syntax import PRESETS, format_pipeline, lookup, parse_pipeline
from graphopt.pose.detect import detect_pose_spec, usual_shapes
from graphopt.pose.spec import PoseSpec

DEVICE = "adreno-640"
"""What the preset `mobile` optimises for unless told otherwise."""


def optimize(
    path: Path,
    output: Path | None = None,
    *,
    preset: str | None = None,
    passes: str | None = None,
    distill: bool = False,
    skip_passes: Collection[str] = (),
    load: Sequence[Path] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    any_size: bool = False,
    verify: VerifyMode = "each",
    on_fail: OnFail = "stop",
    calib: Path | None = None,
    calib_photos: int = 1000,
    max_shift: float | None = None,
    prune: Targets | None = None,
    sensitivity: Path | None = None,
    device: str | Path | None = None,
    pose: Mapping[str, Any] | None = None,
    report: Path | None = None,
    force: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Rewrite an ONNX file pass by pass, and write the result beside it.

    The result's metadata says which pipeline, version and input made it (`graphopt.pipeline`,
    `graphopt.version`, `graphopt.input_sha256`), and which failed checks were overruled
    (`graphopt.failed_checks`).

    Args:
        path: the network.
        output: where the result goes; without it `NAME.opt.onnx` beside the input.
        preset: a pipeline of `PRESETS`; `mobile` where neither it nor `passes` is given.
        passes: a pipeline; after the preset's where both are given.
        distill: let the pass `distill` follow.
        skip_passes: passes of the pipeline to leave out, by name.
        load: Python files that define more passes.
        input_shapes: sizes to fix inputs at, see `load_model`. Other dynamic inputs are judged at
            the size that `compile` would take (`usual_shapes`), and fixed there if a pass is bound
            to a size.
        any_size: leave dynamic inputs dynamic even so; such passes then do less.
        verify: check after each pass, at the end, or not.
        on_fail: what a failed check does, see `run_pipeline`.
        calib: a folder of photos, to fit weights on and to judge poses by. Without it, passes that
            need images get made-up ones, and the report says what that costs; if it cannot be told
            how the network sees images, those of the preset are left out.
        calib_photos: how many of them to use at most; a fifth is held out. Least squares look at
            fewer; training draws from all.
        max_shift: how far key points may move, see `run_pipeline`; it needs `calib`.
        prune: how far to prune, see `allocate`: after the preset the layers' sensitivity is
            measured, the plan that loses least is written beside the output as `NAME.plan.json`,
            and `prune-blocks` and `reconstruct` follow. It needs `calib`. With a `device` that was
            named, layers are pruned only where that pays there.
        sensitivity: what `graphopt sensitivity --json` wrote of this network, not to measure again.
        device: what the network is to be fast on, see `load_device`; `DEVICE` for the preset
            `mobile`. Passes of a preset that are not predicted to pay on it are left out.
        pose: what the user says about the network (`graphopt.pose.spec.choices`).
        report: a file to write the report's JSON to.
        force: allow the output to replace the input.
        progress: called with each pass's name before it runs.

    Raises:
        GraphoptError: see `load_model`, `parse_pipeline`, `detect_pose_spec`,
            `Calibration.from_photos` and `run_pipeline`; nothing is written.
    """
    if max_shift is not None and (calib is None or verify == "off"):
        raise UsageError(
            "how far key points move is measured on photos, after each pass or at the end",
            hint="give a folder of photos with --calib, and no --verify off",
        )
    if prune and calib is None:
        raise UsageError(
            f"--{next(iter(prune)).value} is reached by pruning, which is fitted to photos",
            hint="give a folder of photos with --calib; labels are not needed",
        )
    output = output or path.with_name(f"{path.stem}.opt.onnx")
    _check_paths(path, output, report, force=force)
    known = find_passes(load)
    for name in skip_passes:
        lookup(name, known)
    if preset is None and passes is None:
        preset = "mobile"
    profile = load_device(device or DEVICE) if device or preset == "mobile" else None
    chosen = _passes(_preset_text(preset), known, skip_passes)
    text = ", ".join(part for part in (passes, "distill" if distill else None) if part)
    extra = _passes(text, known, skip_passes)
    remarks: list[str] = []
    if prune:
        plan = output.with_name(f"{output.stem}.plan.json")
        pruning = PruneToTarget(
            targets=prune,
            device=profile if device or TIMES & prune.keys() else None,
            pruning=lookup(PruneToTarget.name, known),
            plan=plan,
            measured=None if sensitivity is None else read_sensitivity(sensitivity),
            tell=remarks.append,
        )
        extra = [pruning, *_passes("reconstruct{masks=choose}", known, skip_passes), *extra]
    graph = load_model(path, input_shapes)
    digest = sha256_of(path)
    free = not all(static_shape(tensor) for tensor in graph.inputs)
    wants_images = calib is not None or any(p.needs_images for p in (*chosen, *extra))
    spec = None
    if free or wants_images:
        try:
            spec = detect_pose_spec(graph, **(pose or {}))
        except GraphoptError as error:
            if calib or any(p.needs_images for p in extra):
                raise
            if left := [p.name for p in chosen if p.needs_images]:
                remarks.append(f"left out {', '.join(left)}, which need images: {error.message}")
            chosen = [p for p in chosen if not p.needs_images]
    if free:
        graph, said = _sized(path, graph, spec, [*chosen, *extra], any_size=any_size)
        remarks += said
    calibration = None
    if spec and wants_images:
        progress("choosing calibration images")
        if calib:
            calibration = Calibration.from_photos(calib, graph, spec, count=calib_photos)
            remarks += calibration.remarks
        else:
            calibration = Calibration.synthetic(graph, spec)
    pipeline = [*chosen, *extra]
    work = output.with_name(f"{output.stem}.work") if calibration else None
    with resumable(work):
        result = run_pipeline(
            graph,
            pipeline,
            context=Context(calibration=calibration, device=profile, work=work),
            verify=verify,
            on_fail=on_fail,
            max_shift=max_shift,
            must_pay=len(chosen),
            progress=progress,
        )
        fitted = any(
            p.needs_images and step.changes for p, step in zip(pipeline, result.steps, strict=True)
        )
        shown = calibration if calib or fitted else None
        summary = Report.of(
            path,
            output,
            format_pipeline(pipeline),
            result,
            shown,
            profile,
            [*remarks, *result.remarks],
        )
        stamp = {
            "graphopt.pipeline": summary.pipeline,
            "graphopt.version": __version__,
            "graphopt.input_sha256": digest,
        }
        if result.kept_failures:
            stamp["graphopt.failed_checks"] = "; ".join(result.kept_failures)
        with ExitStack() as files:
            if report:  # in place only once the network is: both files appear, or neither
                files.enter_context(replacing(report)).write_text(
                    summary.to_json(), encoding="utf-8"
                )
            save_model(result.graph, output, metadata=stamp)
    return summary


def _sized(
    path: Path,
    graph: gs.Graph,
    spec: PoseSpec | None,
    passes: Sequence[Pass[Any]],
    *,
    any_size: bool,
) -> tuple[gs.Graph, list[str]]:
    """A network of dynamic inputs at the size that `compile` would take, and a remark on that.

    It is fixed there if a pass is bound to a size, and otherwise only judged there. One whose usual
    size is not known is left as it is.
    """
    sizes = usual_shapes(graph.inputs, spec)
    usual = {name: tuple(e for e in size if e is not None) for name, size in sizes.items()}
    if any(len(usual[name]) != len(size) for name, size in sizes.items()):
        return graph, []
    at = named_sizes({t.name: usual[t.name] for t in graph.inputs if not static_shape(t)})
    bound = [p.name for p in passes if p.bound_to_size(graph)]
    if bound and not any_size:
        fixed = load_model(path, usual)
        return fixed, [
            f"the result takes {at} only, as `compile` would choose: {', '.join(bound)} needs to "
            "know the size (--input-shape 1,3,H,W for another, --input-shape dynamic for any)"
        ]
    judged_at(graph, usual)
    return graph, [f"the result takes any size, as the input does; it is judged at {at}"]


def _preset_text(preset: str | None) -> str:
    if preset is not None and preset not in PRESETS:
        raise UsageError(
            f"there is no preset {preset!r}", hint=f"the presets are {', '.join(PRESETS)}"
        )
    return PRESETS[preset] if preset else ""


def _passes(text: str, known: Mapping[str, PassType], without: Collection[str]) -> list[Pass[Any]]:
    return [chosen for chosen in parse_pipeline(text, known) if chosen.name not in without]


def _check_paths(path: Path, output: Path, report: Path | None, *, force: bool) -> None:
    """Refuse what could destroy the input, before any time is spent."""
    if output.resolve() == path.resolve() and not force:
        raise InputError(
            f"the output {output} is the input", hint="choose another with -o, or say --force"
        )
    if output.is_dir():
        raise InputError(f"the output {output} is a folder", hint="give a file name with -o")
    if report and report.resolve() in (path.resolve(), output.resolve()):
        raise InputError(f"the report {report} would replace the network", hint="name another file")
