"""How much memory an engine takes, measured in a process that does nothing else.

    python -m graphopt.bench.memory_usage JOB.json

loads one engine, runs it and writes the most bytes that the process ever held to the file `bytes`
beside the job: Python, the engine's libraries, weights and working memory together, as the
operating system counts them (VmHWM). What files are mapped and never touched does not count.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from graphopt.bench.competitors import Job, open_competitor
from graphopt.errors import GraphoptError
from graphopt.ir.arrays import Array
from graphopt.runtime import child_process as child
from graphopt.runtime.engine import Engine

RUNS = 3
"""Engines may take more memory in their second run than in their first."""


def peak_memory(engine: str, job: Job, bundle: Path, feeds: Mapping[str, Array]) -> int:
    """The most bytes that a process holds which loads an engine and runs it.

    Args:
        engine: `graphopt`, or one of `COMPETITORS`.
        job: what a competitor runs.
        bundle: what graphopt runs.
        feeds: the input.

    Raises:
        GraphoptError: the process failed.
    """
    with TemporaryDirectory(prefix="graphopt-memory-") as folder:
        task = {
            "engine": engine,
            "bundle": str(bundle),
            "model": str(job.model),
            "inputs": dict(job.inputs),
            "outputs": dict(job.outputs),
            "threads": job.threads,
            "best": job.best,
        }
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(task))
        # Names of tensors may be no names of files, so their order tells them apart.
        np.savez(path.with_name("feeds.npz"), *(feeds[name] for name in job.inputs))
        # Engines print what they like: its stdout is no answer.
        done = child.run(child.module("graphopt.bench.memory_usage", str(path)))
        if done.returncode:
            reason = (done.stderr.strip() or f"signal {-done.returncode}").splitlines()[-1]
            raise GraphoptError(f"the memory of {engine} could not be measured: {reason}")
        return int(path.with_name("bytes").read_text())


def _engine(task: Mapping[str, object], job: Job) -> Engine:
    if task["engine"] != "graphopt":
        return open_competitor(str(task["engine"]), job)
    from graphopt.runtime.open import open_bundle

    return open_bundle(Path(str(task["bundle"])), threads=job.threads)


def _main(path: Path) -> None:
    task = json.loads(path.read_text(encoding="utf-8"))
    inputs, outputs = (
        {name: tuple(shape) for name, shape in task[key].items()} for key in ("inputs", "outputs")
    )
    job = Job(Path(task["model"]), inputs, outputs, task["threads"], path.parent, task["best"])
    with np.load(path.with_name("feeds.npz")) as arrays:
        feeds = dict(zip(job.inputs, arrays.values(), strict=True))
    engine = _engine(task, job)
    for _ in range(RUNS):
        engine.run(feeds)
    # Not getrusage: its ru_maxrss is at least what the process that started this one held.
    process = getattr(engine, "pid", "self")  # an engine may live in a process of its own
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    path.with_name("bytes").write_text(str(1024 * int(status["VmHWM"].split()[0])))


if __name__ == "__main__":
    try:
        _main(Path(sys.argv[1]))
    except GraphoptError as error:
        sys.exit(error.message)
