"""The compiler as a process of its own, so that a crash inside TVM is an error message.

    python -m graphopt.codegen.jobs.compile_worker JOB.json EVENTS

reads the job (`task`, `model`, `target` …), writes its results beside it, and writes an event a
line as JSON to the file descriptor EVENTS: `{"phase", "detail"}` as it goes, `{"error", "hint",
"node", "exit_code"}` if it must stop, and `{"crash"}` where TVM raised.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import onnx

from graphopt.codegen.hosts import named_features
from graphopt.codegen.jobs.records import Tuned
from graphopt.errors import GraphoptError, Unsupported
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.head_choice import spec_from_plain
from graphopt.pose.skeleton import load_skeleton
from graphopt.runtime.plan import Model

if TYPE_CHECKING:
    from graphopt.codegen.jobs.compile_network import Compiled
    from graphopt.codegen.targets import Target


def main(job_path: Path, pipe: int) -> int:
    """Do the job; 0 when its results are written."""
    os.set_inheritable(pipe, False)  # a linker that outlives this process would keep it open
    # TVM makes a million objects while it is imported, and none of them is garbage.
    gc.disable()
    with os.fdopen(pipe, "w", encoding="utf-8") as events:
        return _follow(job_path, events)


def _follow(job_path: Path, events: TextIO) -> int:
    def tell(**event: object) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    tell(phase="start", detail="")
    job = json.loads(job_path.read_text(encoding="utf-8"))
    try:
        _TASKS[job["task"]](job, job_path.parent, lambda p, d="": tell(phase=p, detail=d))
    except GraphoptError as error:
        tell(
            error=error.message,
            hint=error.hint,
            node=error.node,
            exit_code=error.exit_code,
        )
        return 1
    except MemoryError:
        tell(crash="memory ran out")
        return 1
    except Exception as error:  # TVM raises all kinds; the parent says where it happened
        lines = [line for line in str(error).splitlines() if line.strip()]
        kind = type(error).__name__
        # Of a KeyError and its like, the text alone says nothing.
        builtin = type(error).__module__ == "builtins" and not isinstance(error, RuntimeError)
        text = lines[-1].strip() if lines else ""
        tell(crash=f"{kind}: {text}" if builtin and text else text or kind)
        return 1
    return 0


def _compile(job: dict[str, Any], folder: Path, progress: Progress) -> None:
    """Write what was made, and what it is to description.json.

    A folder for each level (one where the job names none) has plan.json, weights.bin and the
    kernels' file. Of levels that came to the same kernels there is one, that which needs least.
    """
    import tvm

    from graphopt.codegen.linking import machine_code
    from graphopt.codegen.targets import (
        load_target,
        with_bfloat16,
        with_floats_only,
        with_half_arithmetic,
    )

    made: dict[tuple[object, ...], dict[str, Any]] = {}
    equal: dict[str, str] = {}
    levels: list[str] = job["levels"]
    for number, level in enumerate(levels or [""]):
        features = level.replace("+", ",") or job["cpu_features"]
        target = load_target(job["target"], job["host"], features)
        if job["half_arithmetic"]:
            target = with_half_arithmetic(target, features)
        if job["floats_only"]:
            target = with_floats_only(target)
        if job["bfloat16"]:
            target = with_bfloat16(target, features)

        def tell(phase: str, detail: str = "", level: str = level) -> None:
            progress(f"{level}: {phase}" if level else phase, detail)

        result = _compiled(job, target, tell)
        same = (target.lanes, *result.features)
        if same in made:
            equal[made.pop(same)["name"]] = level
        place = folder / f"level-{number}"
        place.mkdir()
        (place / "plan.json").write_text(result.plan.to_json(), encoding="utf-8")
        (place / "weights.bin").write_bytes(result.weights)
        (place / result.code_file).write_bytes(result.code)
        # What LLVM makes of other kernels may use all that it was told of.
        needed = sorted(named_features(features, job["host"])) if level else result.features
        made[same] = {
            "name": level,
            "folder": place.name,
            "code_file": result.code_file,
            "kept": result.kept,
            "target": machine_code.description(target, needed).to_plain(),
        }
    description = {"tvm": tvm.__version__, "levels": [*made.values()], "equal": equal}
    (folder / "description.json").write_text(json.dumps(description))


def _compiled(job: dict[str, Any], target: Target, progress: Progress) -> Compiled:
    """The job's network, compiled for a target."""
    from graphopt.codegen.jobs.compile_network import compile_network
    from graphopt.codegen.jobs.tuning_candidates import as_choices

    measured = as_choices({k: Tuned.from_plain(t) for k, t in job["measured"].items()})
    pose, limits = job.get("pose"), job.get("limits")
    return compile_network(
        _model(job),
        target,
        measured,
        job.get("largest"),
        progress,
        pose=None if pose is None else spec_from_plain(pose),
        side=job.get("side", 0),
        limits=None if limits is None else DecodeOptions(**limits),
    )


def _library(job: dict[str, Any], folder: Path, progress: Progress) -> None:
    """Write net.so, what it is to manifest.json, and its outputs, or why there are none here.

    Inputs are read from the files `feeds` and outputs are written to `outputs-N.npz`, both in the
    network's order; the reason goes to not_run.txt.
    """
    from graphopt.codegen.jobs.tuning_candidates import as_choices
    from graphopt.codegen.jobs.tvm_library import run_library, write_library
    from graphopt.codegen.targets import load_target

    target = load_target(job["target"], job["host"], job["cpu_features"])
    library = folder / "net.so"
    measured = as_choices({k: Tuned.from_plain(t) for k, t in job["measured"].items()})
    source = Model.from_plain(job["source"])
    manifest = write_library(_model(job), target, source, library, job["host"], measured, progress)
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    progress("run")
    inputs = [[*np.load(folder / name).values()] for name in job["feeds"]]
    try:
        for number, outputs in enumerate(run_library(library, manifest.target, inputs)):
            np.savez(folder / f"outputs-{number}.npz", *outputs)
    except Unsupported as reason:
        (folder / "not_run.txt").write_text(reason.message, encoding="utf-8")


def _remote(job: dict[str, Any], folder: Path, progress: Progress) -> None:
    """Write what was measured through RPC to measured.json.

    Where a phase takes longer than the job's `patience`, in seconds, SIGALRM ends this process: TVM
    itself waits for ever.
    """
    from graphopt.codegen.jobs.rpc_client import measure

    def tell(phase: str, detail: str = "") -> None:
        signal.alarm(job["patience"][phase])
        progress(phase, detail)

    measured = measure(
        Path(job["library"]), job["host"], job["port"], job["rounds"], job["warmup_rounds"], tell
    )
    (folder / "measured.json").write_text(measured.to_json(), encoding="utf-8")


def _tune(job: dict[str, Any], folder: Path, progress: Progress) -> None:
    """Write bundles of candidates, and what they are to candidates.json."""
    from graphopt.codegen.jobs.tuning_candidates import make_bundles
    from graphopt.codegen.targets import load_target

    found = make_bundles(_model(job), load_target(job["target"]), folder, progress)
    (folder / "candidates.json").write_text(json.dumps([c.to_plain() for c in found]))


def _decoder(job: dict[str, Any], folder: Path, progress: Progress) -> None:
    """Write a decoder by itself as the bundle `decoder`."""
    from graphopt.codegen.lowering.decode_stage import write_decoder
    from graphopt.codegen.targets import load_target

    progress("decoder")
    height, width = job["size"]
    target = load_target(job["target"])
    write_decoder(load_skeleton(job["skeleton"]), (height, width), target, folder / "decoder")


def _model(job: dict[str, Any]) -> onnx.ModelProto:
    """The network, every node with a name."""
    model = onnx.load(job["model"])
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return model


Progress = Callable[..., None]
_TASKS: Mapping[str, Callable[[dict[str, Any], Path, Progress], None]] = MappingProxyType(
    {
        "compile": _compile,
        "library": _library,
        "remote": _remote,
        "tune": _tune,
        "decoder": _decoder,
    }
)


if __name__ == "__main__":
    # What TVM tidies up before it leaves takes half a second, and ends with the process anyhow.
    os._exit(main(Path(sys.argv[1]), int(sys.argv[2])))
