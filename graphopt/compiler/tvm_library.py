"""The plain function behind `graphopt compile --format tvm`: ONNX in, a checked library out.

It is for those whose devices have TVM's own runtime: the network alone, whose virtual machine calls
the kernels that a bundle has. As for a bundle, the compiler is a child process.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphopt.codegen.hosts import check_host
from graphopt.codegen.targets import check_features, check_name, load_target
from graphopt.compiler.comparison import agreement_with_onnxruntime, disagreement
from graphopt.compiler.options import CompileOptions
from graphopt.compiler.prepare import prepare_network
from graphopt.compiler.tuning_cache import measured_kernels, tuning_for
from graphopt.compiler.worker import run_worker
from graphopt.errors import UsageError
from graphopt.ir.files import replacing, sha256_of
from graphopt.ir.input_shapes import parse_input_shapes
from graphopt.ir.onnx_io import save_model
from graphopt.runtime.plan import Manifest, Model
from graphopt.runtime.sample_inputs import sample_feeds


@dataclass(frozen=True)
class Library:
    """What came of compiling.

    Args:
        manifest: of the library that was written; it holds it too.
        bytes: its size.
        difference: largest difference to onnxruntime's outputs as a part of their range, or why it
            was not measured.
        left_out: what a bundle has and it has not, a phrase each.
        remarks: as `graphopt.compiler.compile.Compilation` has them.
    """

    manifest: Manifest
    bytes: int
    difference: float | str
    left_out: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def compile_library(
    path: Path,
    library: Path,
    options: CompileOptions = CompileOptions(),
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> Library:
    """Compile a network into a library for TVM's runtime.

    Its function `main` takes the network's inputs and returns its outputs, float32 as they are in
    the ONNX file; `graphopt_manifest` returns a `graphopt.runtime.plan.Manifest` as JSON.

    Args:
        path: the ONNX file.
        library: the file to write, NAME.so; an older one is replaced.
        options: what it is compiled for; of how, `input_shape`, `tuning` and `pose` count.
        progress: told what is being done.

    Raises:
        GraphoptError: the network cannot be read or compiled; nothing is written.
        CheckFailed: its outputs differ from onnxruntime's; nothing is written.
    """
    tuning = tuning_for(options)
    check_name(options.target)
    check_host(options.host)
    check_features(options.target, options.host, options.cpu_features)
    if options.cpu_levels:
        raise UsageError("a library has kernels for one CPU", hint="--cpu-features says which")
    if library.suffix != ".so" or library.is_dir():
        raise UsageError(
            f"{library} is no name for a library", hint="TVM's runtime loads files: -o NAME.so"
        )
    network = prepare_network(
        path, parse_input_shapes(options.input_shape), options.pose.choices(), progress
    )
    graph, remarks = network.graph, list(network.remarks)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        work = Path(folder)
        save_model(graph, work / "model.onnx")
        samples = sample_feeds(graph, {tensor.name: tensor.shape for tensor in graph.inputs})
        names = [f"feeds-{number}.npz" for number in range(len(samples))]
        for name, feeds in zip(names, samples, strict=True):
            np.savez(work / name, *feeds.values())
        task = {
            "task": "library",
            "target": options.target,
            "host": options.host,
            "cpu_features": options.cpu_features,
            "measured": measured_kernels(tuning),
            "source": Model(path=str(path.resolve()), sha256=sha256_of(path)).to_plain(),
            "feeds": names,
        }
        run_worker(work, task, progress)
        manifest = Manifest.from_json((work / "manifest.json").read_bytes())
        progress("comparing with onnxruntime")
        why = work / "not_run.txt"
        differs: float | str
        if why.exists():
            differs = why.read_text(encoding="utf-8")
        else:
            results = [np.load(work / f"outputs-{n}.npz").values() for n in range(len(samples))]
            outputs = [[dict(zip(manifest.outputs, run, strict=True))] for run in results]
            found = agreement_with_onnxruntime(graph, [[feeds] for feeds in samples], outputs)
            if found.excess is not None:
                raise disagreement("library", found, overrulable=False)
            differs = found.difference
            remarks += [found.within] if found.within else []
        with replacing(library) as fresh:
            shutil.copyfile(work / "net.so", fresh)
        return Library(
            manifest, library.stat().st_size, differs, tuple(_left_out(manifest)), tuple(remarks)
        )


def _left_out(manifest: Manifest) -> Iterator[str]:
    yield "pre-processing and decoder (TVM's format holds the network alone)"
    if manifest.target.kind == "gpu" and load_target(manifest.target.name).images:
        yield "images (in TVM's format kernels read their input from buffers)"
