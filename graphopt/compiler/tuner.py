"""The plain function behind `graphopt tune`: which kernels this machine runs fastest.

Candidates are compiled by `jobs.tuning_candidates`, a bundle for each convolution, and timed
by the runner of bundles.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphopt.codegen.jobs.records import Candidates, Tuned
from graphopt.codegen.targets import check_name
from graphopt.compiler.options import TuneOptions
from graphopt.compiler.prepare import prepare_network
from graphopt.compiler.tuning_cache import Tuning, read_tuning, tuning_path, write_tuning
from graphopt.compiler.worker import run_worker
from graphopt.ir.input_shapes import parse_input_shapes
from graphopt.ir.onnx_io import save_model
from graphopt.ir.records import Record
from graphopt.runtime.layer_times import layer_times
from graphopt.runtime.opencl import device_name
from graphopt.runtime.threads import usable_cores

WORTH = 0.97
"""A candidate must need at most so much of the default's time to be taken instead."""


@dataclass(frozen=True)
class Result(Record):
    """A convolution that was measured.

    Args:
        layer: a node that it is.
        count: layers of the network that are this convolution.
        before: what is taken unmeasured.
        after: what is taken now.
    """

    layer: str
    count: int
    before: Tuned
    after: Tuned


def tune(
    path: Path,
    output: Path | None = None,
    options: TuneOptions = TuneOptions(),
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Path, list[Result]]:
    """Measure the candidates of every convolution of a network on this machine.

    What the file already says of other convolutions stays.

    Args:
        path: the ONNX file.
        output: the tuning file; without it the device's own, where `compile` looks.
        options: what is tuned for. Threads are those of an OpenCL device that is the CPU, too;
            without a number, one for each core that the process may use.
        progress: told what is being done.

    Returns:
        The file that was written, and how each convolution fared, in order.

    Raises:
        GraphoptError: the network cannot be read or compiled, or this machine cannot run it.
    """
    target = options.target
    check_name(target)
    threads = options.threads or usable_cores()
    device = device_name(target, threads)
    file = output or tuning_path(target, device)
    known = read_tuning(file, target).layers if file.exists() else {}
    graph = prepare_network(path, parse_input_shapes(options.input_shape), {}, progress).graph
    with tempfile.TemporaryDirectory(prefix="graphopt-tune-") as folder:
        work = Path(folder)
        save_model(graph, work / "model.onnx")
        run_worker(work, {"task": "tune", "target": target}, progress)
        candidates = [
            Candidates.from_plain(one) for one in json.loads((work / "candidates.json").read_text())
        ]
        fastest, results = measure(candidates, threads=threads, progress=progress)
    write_tuning(Tuning(target=target, device=device, layers={**known, **fastest}), file)
    return file, results


def measure(
    candidates: Sequence[Candidates],
    *,
    threads: int,
    rounds: int = 5,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Tuned], list[Result]]:
    """Time candidates on this machine, those of a convolution in turns.

    Args:
        candidates: of every convolution.
        threads: CPU threads, as in `open_bundle`.
        rounds: how often each is timed, three times at once; the fastest counts.
        progress: told each convolution.

    Returns:
        The fastest by the convolution's key, and how the convolutions fared.
    """
    fastest: dict[str, Tuned] = {}
    results = []
    for number, one in enumerate(candidates):
        progress(f"timing convolution {number + 1} of {len(candidates)}, {one.layer}")
        times = layer_times(one.bundle, threads=threads, rounds=rounds)
        timed = [
            replace(choice, ms=time.ms) for choice, time in zip(one.choices, times, strict=True)
        ]
        best = min(timed, key=lambda choice: choice.ms)
        chosen = best if best.ms < WORTH * timed[0].ms else timed[0]
        fastest[one.key] = chosen
        results.append(Result(one.layer, one.count, timed[0], chosen))
    return fastest, results
