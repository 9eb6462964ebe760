"""The compiler's process: started, followed, and ended with what waits for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from graphopt.errors import CheckFailed, GraphoptError, InputError, Unsupported, UsageError
from graphopt.runtime import child_process as child

WORKER = "graphopt.codegen.jobs.compile_worker"
"""The module that the child process runs."""

_ERRORS: Mapping[int, type[GraphoptError]] = MappingProxyType(
    {kind.exit_code: kind for kind in (InputError, UsageError, CheckFailed, Unsupported)}
)
"""What the child process's errors become here."""


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
            process = _start(job, writing)
        finally:
            os.close(writing)
        try:
            yield process, events
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _start(job: Path, events: int) -> subprocess.Popen[bytes]:
    """Start the child process; events have a pipe of their own, as imported modules may print."""
    return subprocess.Popen(
        child.module(WORKER, str(job), str(events)),
        env=child.environment(),
        pass_fds=[events],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
