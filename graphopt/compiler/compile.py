"""The plain function behind `graphopt compile`: ONNX in, a checked bundle out.

The compiler runs in a child process (`codegen.jobs.compile_worker`), so that this side never
imports TVM, and a crash inside it becomes a message that names the layer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnx_graphsurgeon as gs

from graphopt.analysis.ranges import largest_values
from graphopt.codegen.hosts import check_host
from graphopt.codegen.targets import check_features, check_name
from graphopt.compiler.auto_precision import (
    compile_fastest,
    compile_usual,
    is_left_open,
    is_measured,
)
from graphopt.compiler.bundle_check import Samples, check_bundle
from graphopt.compiler.levels import check_levels, laid_out, levels_for, one_target, read_levels
from graphopt.compiler.options import IMAGES, CompileOptions
from graphopt.compiler.precision import (
    check_precision,
    in_halves,
    shown_photos,
    told_precision,
    with_precision,
)
from graphopt.compiler.prepare import Prepared, prepare_network
from graphopt.compiler.stages import check_places, places
from graphopt.compiler.tuning_cache import Tuning, measured_kernels, tuning_for
from graphopt.compiler.worker import run_worker
from graphopt.errors import InputError, UsageError
from graphopt.fitting.calibration import Calibration
from graphopt.ir.arrays import Feeds
from graphopt.ir.files import sha256_of
from graphopt.ir.input_shapes import parse_input_shapes
from graphopt.ir.onnx_io import save_model
from graphopt.ir.version import VERSION
from graphopt.pose.spec import AnySpec
from graphopt.runtime.bundle import check_place, write_bundle
from graphopt.runtime.plan import FORMAT, Manifest, Model, Plan
from graphopt.runtime.sample_inputs import sample_feeds
from graphopt.runtime.steps import is_quantised

TUNED = ("float32", "float16")
"""Precisions whose kernels `tune` measures; those of others are estimated."""
COMPARED = 5
"""How many of them a bundle is compared with onnxruntime on."""


@dataclass(frozen=True)
class Compilation:
    """What came of compiling.

    Args:
        manifest: of the bundle that was written.
        plan: that of its best level.
        pose: how photos and people fit the network; None where no pose maps were recognised.
        difference: largest difference to onnxruntime's outputs as a part of their range, or why it
            was not measured.
        kept: what half precision cannot hold and is in float32 for that, a phrase each.
        remarks: what the user should know of what was done and of the comparison, a sentence each.
        unread: why no pose maps were recognised, where that is so.
        tuned_on: the device that kernels were measured on; None where they were estimated.
        precision: what convolutions compute in.
    """

    manifest: Manifest
    plan: Plan
    pose: AnySpec | None
    difference: float | str
    kept: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    unread: str = ""
    tuned_on: str | None = None
    precision: str = "float32"


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
    tuning_for(options)  # a file that is none is refused before anything takes time
    check_place(bundle)
    check_name(options.target)
    check_host(options.host)
    check_features(options.target, options.host, options.cpu_features)
    check_levels(options)
    check_precision(options)
    failures: list[str] = []
    network = prepare_network(
        path,
        parse_input_shapes(options.input_shape),
        options.pose.choices(),
        progress,
        failures if options.on_fail == "warn" else None,
    )
    compiling = partial(_compiled, network, path, failures)
    if is_measured(options, network.graph):
        done, said = compile_fastest(compiling, bundle, options, progress)
        return replace(done, remarks=(*said, *done.remarks))
    if is_left_open(options, network.graph):
        done, said = compile_usual(compiling, bundle, options, network.graph, progress)
        return replace(done, remarks=(*said, *done.remarks))
    return compiling(bundle, options, progress)


def _compiled(
    network: Prepared,
    path: Path,
    failures: Sequence[str],
    bundle: Path,
    options: CompileOptions,
    progress: Callable[[str], None],
) -> Compilation:
    """Compile a network that is prepared, in the precision that `options` say.

    Args:
        network: what is compiled.
        path: the file that it was read from.
        failures: what was overruled before.
        bundle, options, progress: as in `compile_model`.

    Raises:
        GraphoptError: as it.
    """
    tuning = tuning_for(options)
    options, chosen = with_precision(options, network.graph)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        work = Path(folder)
        save_model(network.graph, work / "model.onnx")
        inputs = _inputs(network, options, progress)
        levels = levels_for(
            options, quantised=is_quantised(network.graph) and not options.dequantize
        )
        run_worker(work, _task(network, options, levels, tuning, inputs), progress)
        made = _collect(work, path, network.pose, options)
        manifest = write_bundle(work / "bundle", made.manifest, made.files)
        checked = check_bundle(
            work / "bundle", manifest, network, inputs, options, failures, progress
        )
        manifest = replace(made.manifest, comparison=checked.comparison)
        manifest = write_bundle(bundle, manifest, made.files)
    precision = told_precision(options, network.graph)
    return Compilation(
        manifest,
        made.plan,
        network.pose,
        checked.difference,
        made.kept,
        remarks=(*network.remarks, *chosen, *inputs.remarks, *made.remarks, *checked.remarks),
        unread=network.unread,
        tuned_on=tuning.device if tuning and precision in TUNED else None,
        precision=precision,
    )


def _inputs(network: Prepared, options: CompileOptions, progress: Callable[[str], None]) -> Samples:
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
            return Samples(alone, None, ())
        images, remarks = _images(graph, network.pose, options.calib, options.calib_photos)
        pictures = images[:COMPARED]
        if options.bf16 and pictures:  # noise gives maps of little range, which says little of it
            return Samples([pictures], None, remarks, pictures)
        return Samples([*alone, *([pictures] if pictures else [])], None, remarks, pictures)
    progress("looking for what half precision cannot hold")
    images, remarks = _images(graph, network.pose, options.calib, options.calib_photos)
    largest = largest_values(graph, images or samples)
    return Samples([images[:COMPARED]] if images else alone, largest, remarks)


def _task(
    network: Prepared,
    options: CompileOptions,
    levels: Sequence[str],
    tuning: Tuning | None,
    inputs: Samples,
) -> dict[str, Any]:
    """What the compiler's process is told."""
    task: dict[str, Any] = {
        "task": "compile",
        "target": options.target,
        "host": options.host,
        "cpu_features": options.cpu_features,
        "levels": levels,
        "measured": measured_kernels(tuning),
        "half_arithmetic": options.fp16_arithmetic,
        "bfloat16": options.bf16,
        "floats_only": options.dequantize,
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
        plan: that of its best level.
        files: its files' contents by name, but for the manifest.
        kept: what half precision cannot hold, a phrase each.
        remarks: what was left out, a sentence each.
    """

    manifest: Manifest
    plan: Plan
    files: dict[str, bytes]
    kept: tuple[str, ...]
    remarks: tuple[str, ...]


def _collect(work: Path, path: Path, pose: AnySpec | None, options: CompileOptions) -> _Made:
    """Read what the compiler's process left in a folder.

    Raises:
        CheckFailed: it leaves something to a CPU and must not.
    """
    found = read_levels(work)
    tvm, made = found.tvm, found.levels
    plan, made_for = made[0].plan, one_target(made)
    runs = places(plan, made_for.kind, pose, options.post)
    if options.require_full_gpu:
        check_places(runs)
    levels, files = laid_out(made)
    if pose is not None:
        files["pose.json"] = pose.to_json(indent=1).encode()
    files["NOTICE"] = _notice(path, tvm).encode()
    manifest = Manifest(
        format=FORMAT,
        graphopt=VERSION,
        tvm=tvm,
        target=made_for,
        model=Model(path=str(path.resolve()), sha256=sha256_of(path)),
        inputs={name: plan.tensors[i].shape for name, i in plan.inputs.items()},
        outputs={name: plan.tensors[i].shape for name, i in plan.outputs.items()},
        macs=sum(launch.macs for launch in plan.launches),
        runs=runs,
        files={},
        precision="bfloat16" if options.bf16 else "",
        levels=levels,
    )
    kept = dict.fromkeys(what for level in made for what in level.kept)
    return _Made(manifest, plan, files, tuple(kept), found.remarks)


def _notice(path: Path, tvm: str) -> str:
    """Whose work a bundle is, and under which licences."""
    properties = onnx.load(path, load_external_data=False).metadata_props
    stated = [p.value for p in properties if p.key.lower() in ("license", "licence")]
    weights = f"The file says: {', '.join(stated)}." if stated else "The file does not say which."
    return (
        f"The kernels were generated by graphopt {VERSION} and Apache TVM {tvm}, both under\n"
        "the Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0.\n"
        f"The weights are those of {path.name}, whose licence is its authors'. {weights}\n"
    )


def _images(
    graph: gs.Graph, pose: AnySpec | None, photos: Path | None, count: int
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
