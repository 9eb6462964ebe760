"""The plain function behind `graphopt optimize`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from graphopt.analysis.latency.device import Device, load_device
from graphopt.display.numbers import named_sizes
from graphopt.errors import GraphoptError, InputError, UsageError
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.checkpoint import resumable
from graphopt.ir.block_structure import MEASURED
from graphopt.ir.files import replacing, sha256_of
from graphopt.ir.graph import static_shape
from graphopt.ir.input_shapes import parse_input_shapes
from graphopt.ir.network import Network
from graphopt.ir.onnx_io import load_model, save_model
from graphopt.ir.version import VERSION
from graphopt.optimizer.options import OptimizeOptions
from graphopt.optimizer.outcome import PipelineResult
from graphopt.optimizer.pass_contract import AnyPass, Context
from graphopt.optimizer.pipeline import AfterPass, run_pipeline
from graphopt.optimizer.places import place_for
from graphopt.optimizer.prune_to_target import PRUNING, TIMES, Goal
from graphopt.optimizer.prune_to_target_pass import PruneToTarget
from graphopt.optimizer.registry import PassType, find_passes
from graphopt.optimizer.report import Report
from graphopt.optimizer.sensitivity_file import read_sensitivity
from graphopt.optimizer.syntax import PRESETS, format_pipeline, lookup, parse_pipeline
from graphopt.pose.detect import detect_pose_spec, usual_shapes
from graphopt.pose.spec import PoseSpec

DEVICE = "adreno-640"
"""What the preset `mobile` optimises for unless told otherwise."""
ANY_SIZE = ("dynamic",)
"""The `input_shape` of a result that takes any size."""


def optimize(
    path: Path,
    output: Path | None = None,
    options: OptimizeOptions = OptimizeOptions(),
    *,
    report: Path | None = None,
    dump_dir: Path | None = None,
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
        options: which passes run, and how they are judged.
        report: a file to write the report's JSON to.
        dump_dir: an empty folder, which need not be there, for the network before the first pass
            and after each: `00-input.onnx`, `01-PASS.onnx` and so on.
        force: allow the output to replace the input.
        progress: called with each pass's name before it runs.

    Raises:
        GraphoptError: see `load_model`, `parse_pipeline`, `detect_pose_spec`,
            `Calibration.from_photos` and `run_pipeline`; nothing is written.
    """
    _check_options(options)
    output = place_for(path, output, report, force=force)
    dump = _dumping(dump_dir)
    plan = _plan(options, output)
    subject = _read(path, options, plan)
    calibration = _calibration(subject, options, plan, progress)
    work = output.with_name(f"{output.stem}.work") if calibration else None
    dump(0, "input", subject.graph)
    with resumable(work):
        result = run_pipeline(
            subject.graph,
            plan.passes,
            context=Context(calibration=calibration, device=plan.device, work=work),
            verify=options.verify,
            on_fail=options.on_fail,
            max_shift=options.max_shift,
            must_pay=len(plan.chosen),
            progress=progress,
            after_pass=dump,
        )
        shown = calibration if options.calib or _was_fitted(plan, result) else None
        summary = Report.of(
            path,
            output,
            format_pipeline(plan.passes),
            result,
            shown,
            plan.device,
            [*plan.remarks, *result.remarks],
        )
        _write(summary, result, output, report, subject.digest)
    return summary


@dataclass
class _Plan:
    """What is to be done.

    Args:
        chosen: the preset's passes, which must pay on the device.
        extra: the user's own, and those that pruning needs.
        device: what the network is to be fast on.
        remarks: what the user should know, a sentence each; more is said as it is done.
    """

    chosen: list[AnyPass]
    extra: list[AnyPass]
    device: Device | None
    remarks: list[str]

    @property
    def passes(self) -> list[AnyPass]:
        """All of them, in order."""
        return [*self.chosen, *self.extra]


def _plan(options: OptimizeOptions, output: Path) -> _Plan:
    known = find_passes(options.load)
    for name in options.skip_passes:
        lookup(name, known)
    preset = options.preset
    if preset is None and options.passes is None:
        preset = "mobile"
    device = options.device
    profile = load_device(device or DEVICE) if device or preset == "mobile" else None
    chosen = _passes(_preset_text(preset), known, options.skip_passes)
    own = (options.passes, options.training, quantizing(options))
    extra = _passes(", ".join(part for part in own if part), known, options.skip_passes)
    if options.int8 and [one.name for one in extra].count("quantize") > 1:
        raise UsageError(
            "--passes names quantize, which --int8 runs with its budget", hint="leave out one"
        )
    remarks: list[str] = []
    if targets := _targets(options):
        measured = options.sensitivity
        pruning = PruneToTarget(
            targets=targets,
            device=profile if device or TIMES & targets.keys() else None,
            pruning=lookup(PRUNING, known),
            plan=output.with_name(f"{output.stem}.plan.json"),
            measured=None if measured is None else read_sensitivity(measured),
            tell=remarks.append,
            block=MEASURED["int8" if options.int8 else "float32"],
            shown=(profile or load_device(DEVICE)) if options.compression else None,
        )
        repair = _passes("reconstruct{masks=choose}", known, options.skip_passes)
        extra = [pruning, *repair, *extra]
    return _Plan(chosen, extra, profile, remarks)


@dataclass(frozen=True)
class _Subject:
    """The network that is optimised, how it sees photos where that is known, its file's hash."""

    graph: Network
    spec: PoseSpec | None
    digest: str


def _read(path: Path, options: OptimizeOptions, plan: _Plan) -> _Subject:
    """The network; passes that need images leave the plan where it cannot have any."""
    any_size = options.input_shape == ANY_SIZE
    sizes = parse_input_shapes(() if any_size else options.input_shape)
    pose = options.pose.choices()
    graph = load_model(path, sizes)
    digest = sha256_of(path)
    free = not all(static_shape(tensor) for tensor in graph.inputs)
    spec = None
    if free or _wants_images(options, plan):
        try:
            spec = detect_pose_spec(graph, **pose)
        except GraphoptError as error:
            if options.calib or any(p.needs_images for p in plan.extra):
                raise
            if left := [p.name for p in plan.chosen if p.needs_images]:
                plan.remarks.append(
                    f"left out {', '.join(left)}, which need images: {error.message}"
                )
            plan.chosen = [p for p in plan.chosen if not p.needs_images]
    if free:
        graph, said = _sized(path, graph, spec, plan.passes, any_size=any_size)
        plan.remarks += said
    return _Subject(graph, spec, digest)


def _wants_images(options: OptimizeOptions, plan: _Plan) -> bool:
    return options.calib is not None or any(p.needs_images for p in plan.passes)


def _calibration(
    subject: _Subject, options: OptimizeOptions, plan: _Plan, progress: Callable[[str], None]
) -> Calibration | None:
    """Photos, or made-up images, where a pass or the user wants them."""
    if subject.spec is None or not _wants_images(options, plan):
        return None
    progress("choosing calibration images")
    if not options.calib:
        return Calibration.synthetic(subject.graph, subject.spec)
    calibration = Calibration.from_photos(
        options.calib, subject.graph, subject.spec, count=options.calib_photos
    )
    plan.remarks += calibration.remarks
    return calibration


def _dumping(folder: Path | None) -> AfterPass:
    """What writes the network after each pass into a folder, if there is one.

    Raises:
        InputError: something is in it.
    """
    if folder is None:
        return lambda _number, _name, _graph: None
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(
            f"{folder} is no empty folder", hint="give --dump-dir another, or empty this one"
        )
    return lambda number, name, graph: save_model(graph, folder / f"{number:02}-{name}.onnx")


def _was_fitted(plan: _Plan, result: PipelineResult) -> bool:
    return any(
        p.needs_images and step.changes for p, step in zip(plan.passes, result.steps, strict=True)
    )


def _write(
    summary: Report, result: PipelineResult, output: Path, report: Path | None, digest: str
) -> None:
    """Put the network in its place, and the report in its own: both appear, or neither."""
    stamp = {
        "graphopt.pipeline": summary.pipeline,
        "graphopt.version": VERSION,
        "graphopt.input_sha256": digest,
    }
    if result.kept_failures:
        stamp["graphopt.failed_checks"] = "; ".join(result.kept_failures)
    with ExitStack() as files:
        if report:  # in place only once the network is
            text = summary.to_json(indent=2) + "\n"
            files.enter_context(replacing(report)).write_text(text, encoding="utf-8")
        save_model(result.graph, output, metadata=stamp)


def _targets(options: OptimizeOptions) -> dict[Goal, float]:
    """What pruning is to reach."""
    goals = {
        Goal.COMPRESSION: options.compression,
        Goal.SPEEDUP: options.speedup,
        Goal.LATENCY: options.latency_ms,
        Goal.LOSS: None if options.int8 else options.max_ap_drop,
    }
    return {goal: value for goal, value in goals.items() if value is not None}


def quantizing(options: OptimizeOptions) -> str | None:
    """The pass that stores the result in eight bits, within the budget, if that is asked for."""
    if not options.int8:
        return None
    given = {"max_shift": options.max_shift, "max_ap_drop": options.max_ap_drop}
    text = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
    return f"quantize{{{text}}}"


def _check_options(options: OptimizeOptions) -> None:
    """Refuse options that go together with others only."""
    if options.int8 and options.calib is None:
        raise UsageError(
            "--int8 is fitted to photos, and made-up images are no match for them",
            hint="give a folder of photos with --calib; labels are not needed",
        )
    if options.max_shift is not None and (options.calib is None or options.verify == "off"):
        raise UsageError(
            "how far key points move is measured on photos, after each pass or at the end",
            hint="give a folder of photos with --calib, and no --verify off",
        )
    targets = _targets(options)
    if targets and options.calib is None:
        raise UsageError(
            f"--{next(iter(targets)).value} is reached by pruning, which is fitted to photos",
            hint="give a folder of photos with --calib; labels are not needed",
        )


def _sized(
    path: Path,
    graph: Network,
    spec: PoseSpec | None,
    passes: Sequence[AnyPass],
    *,
    any_size: bool,
) -> tuple[Network, list[str]]:
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
    graph.judge_at(usual)
    return graph, [f"the result takes any size, as the input does; it is judged at {at}"]


def _preset_text(preset: str | None) -> str:
    if preset is not None and preset not in PRESETS:
        raise UsageError(
            f"there is no preset {preset!r}", hint=f"the presets are {', '.join(PRESETS)}"
        )
    return PRESETS[preset] if preset else ""


def _passes(text: str, known: Mapping[str, PassType], without: Collection[str]) -> list[AnyPass]:
    return [chosen for chosen in parse_pipeline(text, known) if chosen.name not in without]
