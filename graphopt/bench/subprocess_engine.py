"""An engine in a Python of its own: the other end of `graphopt.bench.competitors.GuestEngine`.

    python -I guest.py ENGINE JOB.json ANSWERS

Needs Python 3.10, NumPy, the engine and nothing of graphopt: the Python may be another
environment's.

Inputs and outputs are .npy files that both processes map, so that tensors are not sent. When the
network is loaded, a line on the file descriptor ANSWERS says so; then each line on stdin asks for a
run, and its answer is the number of seconds that the run took, from values in mapped memory to
values in mapped memory. The process ends when stdin does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Sequence[NDArray[np.generic]]
Run = Callable[[Arrays], Arrays]
"""Inputs to outputs, both in the order of the job."""


def mnn(model: str, inputs: Sequence[str], outputs: Sequence[str], threads: int, best: bool) -> Run:
    """Alibaba's MNN on the CPU; `model` is what its converter made."""
    from MNN import expr, nn

    # "high" is float32 throughout; "low", and the default, may be less where the CPU has it.
    precision = "low" if best else "high"
    config = {"backend": "CPU", "precision": precision, "numThread": threads}
    module = nn.load_module_from_file(
        model,
        list(inputs),
        list(outputs),
        runtime_manager=nn.create_runtime_manager((config,)),
        shape_mutable=False,
    )

    def run(feeds: Arrays) -> Arrays:
        variables = []
        for value in feeds:
            variable = expr.placeholder(list(value.shape), expr.NCHW)
            variable.write(value)
            variables.append(variable)
        return [expr.convert(result, expr.NCHW).read() for result in module.forward(variables)]

    return run


def tinygrad(
    model: str, inputs: Sequence[str], outputs: Sequence[str], threads: int, _best: bool
) -> Run:
    """George Hotz's tinygrad on the first OpenCL device; kernels are compiled once and replayed."""
    os.environ["POCL_MAX_PTHREAD_COUNT"] = str(threads)
    os.environ["DEV"] = "CL"
    # PyOpenCL's wheels bring an OpenCL loader and PoCL, which tinygrad would not find by itself.
    import pyopencl

    pyopencl.get_platforms()
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    os.environ["OPENCL_PATH"] = next(line.split()[-1] for line in mapped if "libOpenCL" in line)
    from tinygrad import Tensor, TinyJit
    from tinygrad.nn.onnx import OnnxRunner

    network = OnnxRunner(model)

    def forward(*feeds: Any) -> list[Any]:
        results = network(dict(zip(inputs, feeds, strict=True)))
        return [results[name].realize() for name in outputs]

    replayed = TinyJit(forward)

    def run(feeds: Arrays) -> Arrays:
        return [result.numpy() for result in replayed(*(Tensor(f).realize() for f in feeds))]

    return run


ENGINES: Mapping[str, Callable[[str, Sequence[str], Sequence[str], int, bool], Run]] = {
    "mnn": mnn,
    "tinygrad": tinygrad,
}


def main(engine: str, path: str, pipe: str) -> None:
    """Load what the job says, then run it whenever asked."""
    answers = os.fdopen(int(pipe), "w", buffering=1)
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    inputs, outputs = job["inputs"], job["outputs"]  # files by tensor name
    feeds, results = (
        [np.asarray(np.load(place, mmap_mode="r+")) for place in places.values()]
        for places in (inputs, outputs)
    )
    run = ENGINES[engine](job["model"], list(inputs), list(outputs), job["threads"], job["best"])
    print("ready", file=answers)
    for _ in sys.stdin:
        start = time.perf_counter()
        for name, memory, value in zip(outputs, results, run(feeds), strict=True):
            if value.shape != memory.shape:
                raise ValueError(f"{name} is {list(value.shape)}, not {list(memory.shape)}")
            memory[...] = value
        print(time.perf_counter() - start, file=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
