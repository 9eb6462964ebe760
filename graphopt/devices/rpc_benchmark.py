"""How long a library takes on a device that runs TVM's RPC server: `graphopt bench --rpc`.

TVM is in a child process, as in `graphopt.compiler.worker`: a server that dies or falls silent is
an error message.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from graphopt.bench.bench_report import SUSPICIOUS, Timing
from graphopt.codegen.jobs.records import RpcTiming
from graphopt.compiler.worker import follow_worker
from graphopt.display.numbers import named_sizes
from graphopt.errors import InputError, UsageError
from graphopt.ir.records import Record

PATIENCE: Mapping[str, int] = MappingProxyType(
    {"connect": 10, "upload": 300, "load": 60, "onnxruntime": 300, "run": 120, "round": 60}
)
"""Seconds that each phase may take. A server that is busy with another takes the connection and
says nothing."""


@dataclass(frozen=True)
class RemoteReport(Record):
    """What was measured; keys mean what they mean in `graphopt.bench.bench_report.BenchReport`."""

    engines: dict[str, Timing]
    difference: dict[str, float]
    unavailable: dict[str, str]
    """Why there is no difference."""
    rounds: int
    model: str
    input: dict[str, tuple[int, ...]]
    server: str
    target: str
    library_bytes: int

    def __rich__(self) -> RenderableType:
        """How long it takes there, and how far off its outputs are."""
        return Group(*self._parts())

    def _parts(self) -> Iterator[RenderableType]:
        at = named_sizes(self.input)
        for name, timing in self.engines.items():
            yield Text(
                f"{self.model} on {self.server}: {timing.median_ms:.2f} ms "
                f"({timing.p10_ms:.2f} … {timing.p90_ms:.2f}), target {self.target}, {at}, "
                f"{self.rounds} rounds"
            )
            if name in self.difference:
                off = self.difference[name]
                yield Text(
                    f"outputs differ from onnxruntime's by {off:.0e} of their range",
                    style="bold red" if off > SUSPICIOUS else "",
                )
        for name, reason in self.unavailable.items():
            yield Text(f"not compared with {name}: {reason}", style="yellow")


def bench_library(
    library: Path,
    server: str,
    *,
    rounds: int = 20,
    warmup_rounds: int = 3,
    progress: Callable[[str], None] = lambda _: None,
) -> RemoteReport:
    """Measure a library that `compiler.tvm_library.compile_library` wrote where it is to run.

    It is uploaded to the server and given the input on which onnxruntime runs, here, the ONNX file
    that it was compiled from; where that file is gone, noise.

    Args:
        library: the file.
        server: HOST:PORT of a server of TVM's RPC that runs nothing else.
        rounds: how often it runs; each time once more before, which is not counted.
        warmup_rounds: rounds before those, which are not counted.
        progress: told what is being done.

    Raises:
        GraphoptError: the library cannot be read, loaded or run there, or nobody is there.
    """
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(f"{server!r} is no HOST:PORT", hint="such as --rpc 192.168.0.7:9090")
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        work = Path(folder)
        task = {
            "task": "remote",
            "library": str(_checked(library).resolve()),
            "host": host,
            "port": int(port),
            "rounds": rounds,
            "warmup_rounds": warmup_rounds,
            "patience": dict(PATIENCE),
        }
        if failure := follow_worker(work, task, progress):
            raise InputError(
                f"no result from {server}, in phase {failure}",
                hint="is it a TVM server of version 0.27, still running and free for others?",
            )
        measured = RpcTiming.from_json((work / "measured.json").read_bytes())
    off = measured.difference
    return RemoteReport(
        engines={"graphopt": Timing.of(np.array(measured.ms))},
        difference={} if off is None else {"graphopt": off},
        unavailable={"onnxruntime": measured.not_compared} if off is None else {},
        rounds=rounds,
        model=str(library),
        input=measured.manifest.inputs,
        server=server,
        target=measured.manifest.target.name,
        library_bytes=library.stat().st_size,
    )


def _checked(library: Path) -> Path:
    """The file, where it is a shared library."""
    try:
        with library.open("rb") as file:
            if file.read(4) == b"\x7fELF":
                return library
    except OSError as error:
        raise InputError(f"cannot read {library}: {error.strerror}") from error
    raise InputError(
        f"{library} is no library",
        hint=f"--rpc measures what graphopt compile {library} -o NET.so --format tvm writes",
    )
