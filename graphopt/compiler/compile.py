"""The plain function behind `graphopt compile`: ONNX in, a checked bundle out.

The compiler runs in a child process (`codegen.jobs.compile_worker`), so that this side never
imports TVM, and a crash inside it becomes a message that names the layer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt import __version__
from graphopt.analysis.ranges import largest_values
from graphopt.codegen.hosts import check_host
from graphopt.codegen.importing.float32 import in_float32
from graphopt.codegen.importing.static_sizes import check_sizes
from graphopt.codegen.importing.supported import check_operators
from graphopt.codegen.targets import check_name
from graphopt.compiler.batch import for_one_picture
from graphopt.compiler.options import IMAGES, CompileOptions, Post
from graphopt.compiler.tuning_cache import Tuning, measured_kernels, tuning_for
from graphopt.errors import CheckFailed, GraphoptError, InputError, Unsupported, UsageError
from graphopt.fitting.calibration import Calibration
from graphopt.ir.arrays import Array, Feeds, channels_last
from graphopt.ir.onnx_io import (
    fix_sizes,
    load_model,
    parse_input_shapes,
    save_model,
    serialised,
    sha256_of,
)
from graphopt.optimizer.options import OnFail as PassOnFail
from graphopt.optimizer.pipeline import PRESETS, parse_pipeline, run_pipeline
from graphopt.optimizer.verify import APPROXIMATE_LIMIT
from graphopt.pose.spec import PoseSpec, detect_pose_spec, usual_shapes
from graphopt.runtime import child_process as child
from graphopt.runtime.bundle import (
    FORMAT,
    BundleTarget,
    Comparison,
    Decoder,
    Manifest,
    Model,
    Place,
    Plan,
    Stage,
    check_place,
    write_bundle,
)
from graphopt.runtime.differences import Agreement, agreement, nudged
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.sample_inputs import sample_feeds

if TYPE_CHECKING:
    from graphopt.runtime.runner import BundleRunner

TOLERANCE, HALF_TOLERANCE, STORED_TOLERANCE = 1e-3, 1e-2, 1e-1
"""Largest difference to onnxruntime's outputs, as a part of their range, that a bundle may show;
the second where the network computes in half precision, which onnxruntime does in float. The third
is for bundles that store in half precision: 5e-2 was seen on made-up images, in which there is
nobody and maps have little range, and 3e-3 on photos."""

KERNEL_NOISES = 4.0
"""Differences of kernels may be so many times onnxruntime's own: Winograd's transforms round more
than the plain sums in all of its answers do."""
MATCHED = 0.9
"""The part of all people that a bundle's decoder must find as the NumPy decoder does."""
COMPARED = 5
"""How many of them a bundle is compared with onnxruntime on."""

WORKER = "graphopt.codegen.jobs.compile_worker"
"""The module that the child process runs."""

_ERRORS: Mapping[int, type[GraphoptError]] = MappingProxyType(
    {kind.exit_code: kind for kind in (InputError, UsageError, CheckFailed, Unsupported)}
)
"""What the child process's errors become here."""


@dataclass(frozen=True)
class Compilation:
    """What came of compiling.

    Args:
        manifest: of the bundle that was written.
        plan: its plan.
        pose: how photos and people fit the network; None where no pose maps were recognised.
        difference: largest difference to onnxruntime's outputs as a part of their range, or why it
            was not measured.
        kept: what half precision cannot hold and is in float32 for that, a phrase each.
        remarks: what the user should know of what was done and of the comparison, a sentence each.
        unread: why no pose maps were recognised, where that is so.
        tuned_on: the device that kernels were measured on; None where they were estimated.
    """

    manifest: Manifest
    plan: Plan
    pose: PoseSpec | None
    difference: float | str
    kept: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    unread: str = ""
    tuned_on: str | None = None


def compile_model(
    path: Path,
    bundle: Path,
    options: CompileOptions = CompileOptions(),
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> Compilation:
    """Compile a network into a bundle.

    The graph is first cleaned by the preset `exact`.

    Args:
        path: the ONNX file.
        bundle: the folder to write; an older bundle there is replaced.
        options: what it is compiled for, and how.
        progress: told what is being done.

    Raises:
        GraphoptError: the network cannot be read or compiled; nothing is written.
        CheckFailed: the bundle's outputs differ from onnxruntime's, or it leaves something to a
            CPU and must not; nothing is written.
    """
    tuning = tuning_for(options)
    check_place(bundle)
    check_name(options.target)
    check_host(options.host)
    if options.calib is not None and not _in_halves(options):
        raise UsageError("--calib shows what half precision can hold", hint="add --fp16")
    failures: list[str] = []
    network = prepare_network(
        path,
        parse_input_shapes(options.input_shape),
        options.pose.choices(),
        progress,
        failures if options.on_fail == "warn" else None,
    )
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        work = Path(folder)
        save_model(network.graph, work / "model.onnx")
        inputs = _inputs(network, options, progress)
        run_worker(work, _task(network, options, tuning, inputs), progress)
        made = _collect(work, path, network.pose, options)
        progress("comparing with onnxruntime")
        write_bundle(work / "bundle", made.manifest, made.files)
        engine = _opened(work / "bundle")
        manifest, remarks = made.manifest, [*network.remarks, *inputs.remarks]
        differs: float | str
        if isinstance(engine, str):
            differs = engine
        else:
            comparison, said = _compared(engine, network.graph, inputs, options, failures)
            differs = comparison.difference
            remarks += said
            manifest = manifest.model_copy(update={"comparison": comparison})
        if made.plan.decoder and network.pose is not None and not isinstance(engine, str):
            progress("comparing people with the decoder's meaning")
            feeds = [feeds for feeds, *_ in inputs.together]
            _check_decoder(engine, made.plan.decoder, network.pose, feeds)
        manifest = write_bundle(bundle, manifest, made.files)
    return Compilation(
        manifest,
        made.plan,
        network.pose,
        differs,
        made.kept,
        remarks=tuple(remarks),
        unread=network.unread,
        tuned_on=tuning.device if tuning else None,
    )


def _in_halves(options: CompileOptions) -> bool:
    """Whether the bundle stores in half precision."""
    return options.fp16 or options.fp16_arithmetic


class _Inputs(NamedTuple):
    """What a bundle is compared with onnxruntime on.

    Args:
        together: inputs whose outputs share one range, a list each.
        largest: largest absolute value of each tensor; None where nothing is stored in halves.
        remarks: what a user should know of the photos.
    """

    together: list[list[Feeds]]
    largest: Mapping[str, float] | None
    remarks: tuple[str, ...]


def _inputs(network: Prepared, options: CompileOptions, progress: Callable[[str], None]) -> _Inputs:
    """Inputs to compare on, and for half precision what it must hold."""
    graph = network.graph
    samples = sample_feeds(graph, {tensor.name: tensor.shape for tensor in graph.inputs})
    alone = [[feeds] for feeds in samples]
    if not _in_halves(options):
        return _Inputs(alone, None, ())
    progress("looking for what half precision cannot hold")
    images, remarks = _images(graph, network.pose, options.calib, options.calib_photos)
    largest = largest_values(graph, images or samples)
    return _Inputs([images[:COMPARED]] if images else alone, largest, remarks)


def _task(
    network: Prepared, options: CompileOptions, tuning: Tuning | None, inputs: _Inputs
) -> dict[str, Any]:
    """What the compiler's process is told."""
    task: dict[str, Any] = {
        "task": "compile",
        "target": options.target,
        "host": options.host,
        "measured": measured_kernels(tuning),
        "half_arithmetic": options.fp16_arithmetic,
    }
    if network.pose is not None:
        task |= {"pose": network.pose.model_dump(mode="json"), "side": options.max_photo}
        if options.post == "paf":
            limits = {"max_people": options.max_people, "max_peaks": options.max_peaks}
            task |= {"limits": limits}
    if inputs.largest is not None:
        task["largest"] = inputs.largest
    return task


class _Made(NamedTuple):
    """What the compiler's process made.

    Args:
        manifest: of the bundle; it has no files yet.
        plan: its plan.
        files: its files' contents by name, but for the manifest.
        kept: what half precision cannot hold, a phrase each.
    """

    manifest: Manifest
    plan: Plan
    files: dict[str, bytes]
    kept: tuple[str, ...]


def _collect(work: Path, path: Path, pose: PoseSpec | None, options: CompileOptions) -> _Made:
    """Read what the compiler's process left in a folder.

    Raises:
        CheckFailed: it leaves something to a CPU and must not.
    """
    description = json.loads((work / "description.json").read_text())
    plan = Plan.model_validate_json((work / "plan.json").read_bytes())
    made_for = BundleTarget(**description["target"])
    runs = _places(plan, made_for.kind, pose, options.post)
    if options.require_full_gpu:
        _check_places(runs)
    names = ["plan.json", "weights.bin", description["code_file"]]
    files = {name: (work / name).read_bytes() for name in names}
    if pose is not None:
        files["pose.json"] = pose.model_dump_json(indent=1).encode()
    files["NOTICE"] = _notice(path, description["tvm"]).encode()
    manifest = Manifest(
        format=FORMAT,
        graphopt=__version__,
        tvm=description["tvm"],
        target=made_for,
        model=Model(path=str(path.resolve()), sha256=sha256_of(path)),
        inputs={name: plan.tensors[i].shape for name, i in plan.inputs.items()},
        outputs={name: plan.tensors[i].shape for name, i in plan.outputs.items()},
        macs=sum(launch.macs for launch in plan.launches),
        runs=runs,
        files={},
    )
    return _Made(manifest, plan, files, tuple(description["kept"]))


def _compared(
    engine: BundleRunner,
    graph: gs.Graph,
    inputs: _Inputs,
    options: CompileOptions,
    failures: list[str],
) -> tuple[Comparison, list[str]]:
    """How a bundle compares with onnxruntime, and remarks on that, `failures` among them.

    Args:
        engine: the bundle.
        graph: what was compiled.
        inputs: what to compare on.
        options: what was asked for.
        failures: what was overruled before; what is overruled here is added.

    Raises:
        CheckFailed: it differs too much.
    """
    halves = _in_halves(options)
    got = [[engine.run(feeds) for feeds in together] for together in inputs.together]
    limit = STORED_TOLERANCE if halves else None
    found = agreement_with_onnxruntime(graph, inputs.together, got, limit)
    if found.excess is not None:
        failure = disagreement("bundle", found, overrulable=True)
        if halves:
            failure.hint = "show it photos with --calib, or compile it without --fp16"
        if options.on_fail == "stop" or not found.difference <= APPROXIMATE_LIMIT:
            raise failure
        failures.append(failure.message)
    remarks = [*([found.within] if found.within else []), *failures]
    comparison = Comparison(
        difference=found.difference, noise=found.noise, failures=tuple(failures)
    )
    return comparison, remarks


def _places(
    plan: Plan, kind: Literal["cpu", "gpu"], pose: PoseSpec | None, post: Post
) -> dict[Stage, Place]:
    """Where each stage from photo to people runs: in the bundle's kernels, if it has them."""
    places: dict[Stage, Place] = {"network": kind}
    if pose is not None:
        places["prepare"] = kind if plan.preparation else "host"
        if post != "none":
            places["decode"] = kind if plan.decoder else "host"
    return places


WHY_NOT: Mapping[Stage, str] = MappingProxyType(
    {
        "prepare": "pre-processing (--max-photo 0, or an input that is not one float32 picture)",
        "network": "the network (--target cpu)",
        "decode": "decoding (the maps are not float32, or their channels come last)",
    }
)
"""Why a stage may be left to a CPU."""


def _check_places(places: Mapping[Stage, Place]) -> None:
    left = [WHY_NOT[stage] for stage, place in places.items() if place != "gpu"]
    if left:
        raise CheckFailed(
            f"a CPU would do {', '.join(left)}",
            hint="leave out --require-full-gpu to let it",
        )


def _notice(path: Path, tvm: str) -> str:
    """Whose work a bundle is, and under which licences."""
    properties = onnx.load(path, load_external_data=False).metadata_props
    stated = [p.value for p in properties if p.key.lower() in ("license", "licence")]
    weights = f"The file says: {', '.join(stated)}." if stated else "The file does not say which."
    return (
        f"The kernels were generated by graphopt {__version__} and Apache TVM {tvm}, both under\n"
        "the Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0.\n"
        f"The weights are those of {path.name}, whose licence is its authors'. {weights}\n"
    )


def prepare_network(
    path: Path,
    input_shapes: Mapping[str, Sequence[int]] | None,
    pose_choices: Mapping[str, Any],
    progress: Callable[[str], None],
    failures: list[str] | None = None,
) -> Prepared:
    """A network as the compiler takes it: clean, every input of a fixed size, a batch of one.

    Args:
        path, input_shapes, pose_choices, progress: as in `compile_model`.
        failures: takes what a check of the cleaned graph says against it; without it, that stops.

    Raises:
        GraphoptError: the network cannot be read, or its size cannot be known.
        Unsupported: an operator that cannot be compiled, or a batch that cannot be made one.
    """
    progress("reading the network")
    graph, remark = for_one_picture(load_model(path, input_shapes))
    check_operators(graph)
    check_sizes(graph)
    pose, unread = _pose_spec(graph if remark else path, dict(pose_choices))
    fix_sizes(graph, _sizes(graph, pose, path))
    progress("cleaning the graph")
    on_fail: PassOnFail = "stop" if failures is None else "warn"
    try:
        cleaned = run_pipeline(
            graph, parse_pipeline(PRESETS["exact"]), verify="end", on_fail=on_fail
        )
    except CheckFailed as failure:
        failure.hint = "please report the network; compile --on-fail warn goes on all the same"
        raise
    if failures is not None:
        failures += cleaned.kept_failures
    return Prepared(cleaned.graph, pose, (remark,) if remark else (), unread)


class Prepared(NamedTuple):
    """What `prepare_network` makes of a file.

    Args:
        graph: the network.
        pose: how photos and people fit it; None where no pose maps were recognised.
        remarks: what was done that users did not ask for, a sentence each.
        unread: why no pose maps were recognised, where that is so.
    """

    graph: gs.Graph
    pose: PoseSpec | None
    remarks: tuple[str, ...]
    unread: str


def _pose_spec(model: Path | gs.Graph, choices: dict[str, Any]) -> tuple[PoseSpec | None, str]:
    try:
        return detect_pose_spec(model, **choices), ""
    except GraphoptError as error:
        # Any network can be compiled and timed; but what the user says must not be ignored.
        if any(value is not None for value in choices.values()):
            raise
        return None, str(error)


def _images(
    graph: gs.Graph, pose: PoseSpec | None, photos: Path | None, count: int
) -> tuple[list[Feeds], tuple[str, ...]]:
    """The network's inputs for photos, or for made-up ones; none where it is no pose network.

    And what a user should know of the photos.
    """
    if pose is None or len(graph.inputs) != 1:
        if photos is not None:
            raise InputError("only a pose network can be shown photos", hint="leave out --calib")
        return [], ()
    if photos is not None:
        images = Calibration.from_photos(photos, graph, pose, count=count)
    else:
        images = Calibration.synthetic(graph, pose, count=IMAGES // 2)
    return list(images.feeds([*images.fitting, *images.held_out])), tuple(images.remarks)


def _sizes(graph: gs.Graph, pose: PoseSpec | None, path: Path) -> dict[str, tuple[int, ...]]:
    """A static shape for every input."""
    sizes = {}
    for name, shape in usual_shapes(graph.inputs, pose).items():
        known = tuple(extent for extent in shape if extent is not None)
        if len(known) != len(shape):
            example = "1,368,656,3" if channels_last(shape) else "1,3,368,656"
            raise InputError(
                f"{path}: the input {name} has no fixed size {list(shape)}",
                hint=f"give one: --input-shape {name}:{example}",
            )
        sizes[name] = known
    return sizes


def run_worker(work: Path, task: Mapping[str, Any], progress: Callable[[str], None]) -> None:
    """Have the compiler's process do a task on `work`/model.onnx; its results lie beside it.

    Raises:
        GraphoptError: it could not be done; says in which phase.
    """
    failure = follow_worker(work, {"model": str(work / "model.onnx"), **task}, progress)
    if failure:
        raise Unsupported(
            f"the compiler failed in phase {failure}",
            hint="another --input-shape or --target may work; please report the network",
        )


def follow_worker(work: Path, task: Mapping[str, Any], progress: Callable[[str], None]) -> str:
    """Have a process that has TVM do a task; its results lie in `work`.

    Returns:
        Nothing where it is done, else the phase in which the process failed, and why.

    Raises:
        GraphoptError: what the process itself says is wrong.
    """
    job = work / "job.json"
    job.write_text(json.dumps(task))
    phase, reason = "start", "it said nothing"
    with _worker(job) as (process, events):
        for line in events:
            event = json.loads(line)
            if "error" in event:
                kind = _ERRORS.get(event["exit_code"], GraphoptError)
                raise kind(event["error"], node=event["node"], hint=event["hint"])
            if "crash" in event:
                reason = event["crash"]
                continue
            phase = f"{event['phase']} {event['detail']}".strip()
            progress(phase)
        if not process.wait():
            return ""
        if process.returncode < 0:
            reason = f"it died of signal {-process.returncode}"
        if process.returncode == -signal.SIGKILL:
            reason = "it was killed, as the system does where memory runs out"
        if process.returncode == -signal.SIGALRM:
            reason = "it took too long"
        return f"{phase}: {reason}"


@contextmanager
def _worker(job: Path) -> Iterator[tuple[subprocess.Popen[bytes], IO[str]]]:
    """The child process and its events; it does not outlive the block, nor is its chatter shown."""
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as events:
        try:
            # Events have a pipe of their own: whatever is imported there may print.
            process = subprocess.Popen(
                child.module(WORKER, str(job), str(writing)),
                env=child.environment(),
                pass_fds=[writing],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        finally:
            os.close(writing)
        try:
            yield process, events
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _opened(bundle: Path) -> BundleRunner | str:
    """The bundle, or why it cannot run here."""
    from graphopt.runtime.runner import open_bundle

    try:
        return open_bundle(bundle)
    except Unsupported as error:
        return error.message


def agreement_with_onnxruntime(
    graph: gs.Graph,
    inputs: Sequence[Sequence[Feeds]],
    outputs: Sequence[Sequence[Feeds]],
    limit: float | None = None,
) -> Agreement:
    """Compare outputs with onnxruntime's on the cleaned graph.

    Args:
        graph: what was compiled.
        inputs: those that belong together share one range; an image without people has little.
        outputs: for each input, every output by name.
        limit: the difference that may be; by default what the network's own arithmetic gives.
    """
    half = any(tensor.dtype == np.float16 for tensor in graph.tensors().values())
    allowed = limit or (HALF_TOLERANCE if half else TOLERANCE)

    def asked(engine: OnnxRuntimeEngine, moved: Callable[[Feeds], Feeds] = dict) -> list[Feeds]:
        return [_stacked([engine.run(moved(f)) for f in together]) for together in inputs]

    def rivals() -> Iterator[list[Feeds]]:
        with serialised(graph) as model:
            yield asked(OnnxRuntimeEngine(model, optimize=False))
            yield asked(OnnxRuntimeEngine(model), nudged)
            if half and isinstance(model, bytes):  # onnxruntime rounds after every node, we do not
                precise = in_float32(onnx.load_model_from_string(model)).SerializeToString()
                yield asked(OnnxRuntimeEngine(precise))

    with serialised(graph) as model:
        references = asked(OnnxRuntimeEngine(model))
    got = [_stacked(runs) for runs in outputs]
    return agreement(got, references, lambda _: allowed, rivals, KERNEL_NOISES)


def _stacked(runs: Sequence[Feeds]) -> Feeds:
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def disagreement(what: str, found: Agreement, *, overrulable: bool) -> CheckFailed:
    """The error that what was compiled differs from onnxruntime, and what to do about it."""
    reason = f", and {found.excess}" if found.excess else ""
    report = "please report the network: this is an error in graphopt"
    bounded = overrulable and found.difference <= APPROXIMATE_LIMIT
    return CheckFailed(
        f"the {what}'s outputs differ from onnxruntime's by {found.difference:.1e} of their range"
        f"{reason}",
        hint=f"{report}; --on-fail warn writes it all the same" if bounded else report,
    )


def _check_decoder(
    engine: BundleRunner, decoder: Decoder, pose: PoseSpec, inputs: Sequence[Feeds]
) -> None:
    """Refuse a decoder that finds others than `graphopt.pose.decode` does in the bundle's maps.

    A few may differ: where candidates are equally good, rounding decides.
    """
    from graphopt.pose.decode import DecodeOptions, decode
    from graphopt.pose.kernel_decoder import limited, poses, thresholds
    from graphopt.pose.preprocess import IDENTITY

    options = limited(DecodeOptions(), decoder)

    def asked(maps: Feeds) -> list[Array]:
        people = decode(maps, pose, IDENTITY, options).people
        return [person.keypoints for person in people]

    people = same = 0
    maps = []
    for feeds in inputs:
        engine.begin(feeds)
        got = poses(engine.people(thresholds(options)), pose, IDENTITY, options).people
        found, expected = [person.keypoints for person in got], asked(engine.maps())
        maps.append((engine.maps(), expected))
        people += max(len(found), len(expected))
        same += _alike(found, expected)
    if same >= MATCHED * people:
        return
    # Flat maps have no sharp peaks: there rounding moves those of the reference as well.
    if same < min(
        sum(_alike(asked(nudged(values, seed)), expected) for values, expected in maps)
        for seed in range(3)
    ):
        raise CheckFailed(
            f"the decoder's kernels find {same} of {people} people right",
            hint="compile with --post none, and please report it: this is an error in graphopt",
        )


def _alike(found: Sequence[Array], expected: Sequence[Array]) -> int:
    """How many of the expected people are among those found, within a tenth of a map's pixel."""
    return sum(any(np.allclose(a, b, atol=0.1) for b in found) for a in expected)
