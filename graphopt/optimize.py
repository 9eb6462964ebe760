"""The plain function behind `graphopt optimize`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from graphopt import __version__
from graphopt.errors import GraphoptError, InputError
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.checkpoint import STATES
from graphopt.latency.device import load_device
from graphopt.model import load_model, replacing, save_model, sha256_of
from graphopt.passbase import Context, Pass
from graphopt.pipeline import (
    LAST_GOOD,
    PRESETS,
    OnFail,
    VerifyMode,
    format_pipeline,
    lookup,
    parse_pipeline,
    run_pipeline,
)
from graphopt.pose.spec import detect_pose_spec
from graphopt.registry import PassType, find_passes
from graphopt.report import Report
from graphopt.sparsity.allocate import TIMES, PruneToTarget, Targets
from graphopt.sparsity.sensitivity import read_sensitivity

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
        input_shapes: sizes to fix inputs at, see `load_model`.
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
        pose: what the user says about the network (`PoseSpec.with_choices`).
        report: a file to write the report's JSON to.
        force: allow the output to replace the input.
        progress: called with each pass's name before it runs.

    Raises:
        GraphoptError: see `load_model`, `parse_pipeline`, `detect_pose_spec`,
            `Calibration.from_photos` and `run_pipeline`; nothing is written.
    """
    if max_shift is not None and (calib is None or verify == "off"):
        raise InputError(
            "how far key points move is measured on photos, after each pass or at the end",
            hint="give a folder of photos with --calib, and no --verify off",
        )
    if prune and calib is None:
        raise InputError(
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
    calibration = None
    if calib or any(p.needs_images for p in (*chosen, *extra)):
        progress("choosing calibration images")
        try:
            spec = detect_pose_spec(graph, **(pose or {}))
        except GraphoptError as error:
            if calib or any(p.needs_images for p in extra):
                raise
            left = [p.name for p in chosen if p.needs_images]
            remarks.append(f"left out {', '.join(left)}, which need images: {error.message}")
            chosen = [p for p in chosen if not p.needs_images]
        else:
            if calib:
                calibration = Calibration.from_photos(calib, graph, spec, count=calib_photos)
            else:
                calibration = Calibration.synthetic(graph, spec)
    pipeline = [*chosen, *extra]
    work = output.with_name(f"{output.stem}.work") if calibration else None
    with _resumable(work):
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
        summary = Report.of(
            path,
            output,
            format_pipeline(pipeline),
            result,
            calibration,
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
                files.enter_context(replacing(report)).write_text(summary.to_json())
            save_model(result.graph, output, metadata=stamp)
    return summary


@contextmanager
def _resumable(work: Path | None) -> Iterator[None]:
    """A folder for what an interrupted run is to go on from; it goes when all is done."""
    if work is None:
        yield
        return
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{work} cannot be written: {error.strerror or error}") from error
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the same command goes on from {work}, where the last good network is, too"
        ) from None
    for name in (LAST_GOOD, *STATES):
        for file in work.glob(name):
            file.unlink()
    with suppress(OSError):  # not empty: there is more than a run's own
        work.rmdir()


def _preset_text(preset: str | None) -> str:
    if preset is not None and preset not in PRESETS:
        raise InputError(
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
