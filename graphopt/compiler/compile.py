"""The plain function behind `graphopt compile`: ONNX in, a checked bundle out.

The compiler runs in a child process (`codegen.jobs.compile_worker`), so that this side never
imports TVM, and a crash inside it becomes a message that names the layer.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import onnx
import onnx_graphsurgeon as gs

from graphopt import __version__
from graphopt.analysis.ranges import largest_values
from graphopt.codegen.hosts import check_host
from graphopt.codegen.targets import check_features, check_name
from graphopt.compiler.comparison import check_decoder, disagreement
from graphopt.compiler.options import IMAGES, CompileOptions
from graphopt.compiler.people import check_people
from graphopt.compiler.precision import (
    agreement_of,
    check_precision,
    in_halves,
    remedy,
    shown_photos,
)
from graphopt.compiler.prepare import Prepared, prepare_network
from graphopt.compiler.stages import check_places, places
from graphopt.compiler.tuning_cache import Tuning, measured_kernels, tuning_for
from graphopt.compiler.worker import run_worker
from graphopt.errors import InputError, Unsupported, UsageError
from graphopt.fitting.calibration import Calibration
from graphopt.ir.arrays import Feeds
from graphopt.ir.files import sha256_of
from graphopt.ir.input_shapes import parse_input_shapes
from graphopt.ir.onnx_io import save_model
from graphopt.optimizer.verify import APPROXIMATE_LIMIT
from graphopt.pose.spec import PoseSpec
from graphopt.runtime.bundle import (
    FORMAT,
    BundleTarget,
    Comparison,
    Manifest,
    Model,
    Plan,
    check_place,
    write_bundle,
)
from graphopt.runtime.sample_inputs import sample_feeds

if TYPE_CHECKING:
    from graphopt.runtime.runner import BundleRunner
COMPARED = 5
"""How many of them a bundle is compared with onnxruntime on."""


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
    """Compile a network, cleaned by the preset `exact` first, into a bundle.

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
    check_features(options.target, options.host, options.cpu_features)
    check_precision(options)
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
            manifest = replace(manifest, comparison=comparison)
            if inputs.pictures and network.pose is not None:
                outputs = [engine.run(feeds) for feeds in inputs.pictures]
                told = check_people(network.graph, network.pose, inputs.pictures, outputs)
                remarks += [told] if told else []
        if made.plan.decoder and network.pose is not None and not isinstance(engine, str):
            progress("comparing people with the decoder's meaning")
            feeds = [feeds for feeds, *_ in inputs.together]
            check_decoder(engine, made.plan.decoder, network.pose, feeds)
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


class _Inputs(NamedTuple):
    """What a bundle is compared with onnxruntime on.

    Args:
        together: inputs whose outputs share one range, a list each.
        largest: largest absolute value of each tensor; None where nothing is stored in halves.
        remarks: what a user should know of the photos.
        pictures: those among them in which people are looked for.
    """

    together: list[list[Feeds]]
    largest: Mapping[str, float] | None
    remarks: tuple[str, ...]
    pictures: Sequence[Feeds] = ()


def _inputs(network: Prepared, options: CompileOptions, progress: Callable[[str], None]) -> _Inputs:
    """Inputs to compare on, and for half precision what it must hold.

    Raises:
        UsageError: photos are given, and there is nothing to be seen in them.
    """
    graph = network.graph
    judged = shown_photos(options, graph)
    if options.calib is not None and not (judged or in_halves(options)):
        raise UsageError("--calib shows what half precision can hold", hint="add --fp16")
    samples = sample_feeds(graph, {tensor.name: tensor.shape for tensor in graph.inputs})
    alone = [[feeds] for feeds in samples]
    if not in_halves(options):
        if not judged:
            return _Inputs(alone, None, ())
        images, remarks = _images(graph, network.pose, options.calib, options.calib_photos)
        pictures = images[:COMPARED]
        if options.bf16 and pictures:  # noise gives maps of little range, which says little of it
            return _Inputs([pictures], None, remarks, pictures)
        return _Inputs([*alone, *([pictures] if pictures else [])], None, remarks, pictures)
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
        "cpu_features": options.cpu_features,
        "measured": measured_kernels(tuning),
        "half_arithmetic": options.fp16_arithmetic,
        "bfloat16": options.bf16,
    }
    if network.pose is not None:
        task |= {"pose": network.pose.to_plain(), "side": options.max_photo}
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
    plan = Plan.from_json((work / "plan.json").read_bytes())
    made_for = BundleTarget.from_plain(description["target"])
    runs = places(plan, made_for.kind, pose, options.post)
    if options.require_full_gpu:
        check_places(runs)
    names = ["plan.json", "weights.bin", description["code_file"]]
    files = {name: (work / name).read_bytes() for name in names}
    if pose is not None:
        files["pose.json"] = pose.to_json(indent=1).encode()
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
        precision="bfloat16" if options.bf16 else "",
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
    got = [[engine.run(feeds) for feeds in together] for together in inputs.together]
    found = agreement_of(options, graph, inputs.together, got)
    if found.excess is not None:
        failure = disagreement("bundle", found, overrulable=True)
        failure.hint = remedy(options) or failure.hint
        if options.on_fail == "stop" or not found.difference <= APPROXIMATE_LIMIT:
            raise failure
        failures.append(failure.message)
    remarks = [*([found.within] if found.within else []), *failures]
    comparison = Comparison(
        difference=found.difference, noise=found.noise, failures=tuple(failures)
    )
    return comparison, remarks


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


def _opened(bundle: Path) -> BundleRunner | str:
    """The bundle, or why it cannot run here."""
    from graphopt.runtime.open import open_bundle

    try:
        return open_bundle(bundle)
    except Unsupported as error:
        return error.message
