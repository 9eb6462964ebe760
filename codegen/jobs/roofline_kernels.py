"""What a device can do at most, as a bundle of two kernels: multiply-adds that touch no memory, and
a copy that touches nothing else.

    python -m graphopt.codegen.jobs.roofline_kernels TARGET BUNDLE

They are written, compiled and run like the kernels whose speed they are the yardstick of.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.emit import Accumulator, Vectors, argument, grid, kernel
from graphopt.codegen.linking.kernel_bundle import write_kernels
from graphopt.codegen.lowering.memory_plan import pack_weights
from graphopt.codegen.targets import Target, load_target
from graphopt.errors import GraphoptError
from graphopt.runtime.plan import Launch, Plan, Tensor

MACS = 50_000_000
"""About how many multiply-adds: so few that some runs are over before another program's turn."""

SUMS = 12
"""Vectors that are multiplied and added to in turn: enough to hide a unit's latency, and few enough
for registers."""

COPIED = 1 << 26
"""Bytes copied: more than caches hold."""


def multiply_adds(target: Target, tasks: int, steps: int) -> Any:
    """Every task: `SUMS` vectors, `steps` times multiplied and added to.

    Parameters: (SUMS + 2, lanes), the vectors to start from, then factor and summand; and
    (tasks, lanes), each task's sum, without which a compiler would leave everything out.
    """
    with kernel("multiply_adds") as get:
        start = Vectors(argument("start", (SUMS + 2, target.lanes)))
        sums = Vectors(argument("sums", (tasks, target.lanes)))
        with grid(target, tasks) as (task,):
            factor, summand = T.bind(start[SUMS,]), T.bind(start[SUMS + 1,])
            registers = [Accumulator(target) for _ in range(SUMS)]
            for i, register in enumerate(registers):
                register.value = start[i,]
            with T.serial(0, steps):
                for register in registers:
                    register.value = register.value * factor + summand
            total = registers[0].value
            for register in registers[1:]:
                total = total + register.value
            sums[task,] = total
    return get()


def copy(target: Target, tasks: int, vectors: int) -> Any:
    """Every task copies that many vectors; parameters: from and to, (tasks, vectors, lanes)."""
    with kernel("copy") as get:
        shape = (tasks, vectors, target.lanes)
        source, to = Vectors(argument("source", shape)), Vectors(argument("to", shape))
        with grid(target, tasks) as (task,), T.serial(0, vectors) as i:
            to[task, i] = source[task, i]
    return get()


def make_bundle(target: Target, path: Path) -> None:
    """Compile both kernels into a bundle without inputs, whose only output is the sums."""
    lanes = target.lanes
    # On a CPU a task is a thread's share, on a GPU it is a work-item.
    tasks = 64 if target.kind == "cpu" else 65536
    steps = MACS // (tasks * SUMS * lanes)
    vectors = COPIED // 4 // (tasks * lanes)
    functions = {
        "multiply_adds": multiply_adds(target, tasks, steps),
        "copy": copy(target, tasks, vectors),
    }
    # Different vectors to start from, or a compiler would see that one sum is enough.
    start = np.linspace(0, 1, SUMS + 2, dtype=np.float32)[:, None].repeat(lanes, 1)
    start[-2:] = [[0.999], [0.001]]
    weights, _ = pack_weights([start])
    shapes = ((tasks, lanes), (tasks, vectors, lanes), (tasks, vectors, lanes))
    plan = Plan(
        arenas=tuple(4 * int(np.prod(shape)) for shape in shapes),
        tensors=(
            Tensor(shape=start.shape, dtype="float32", arena=-1),
            *(Tensor(shape=s, dtype="float32", arena=i) for i, s in enumerate(shapes)),
        ),
        launches=(
            Launch(
                kernel="multiply_adds",
                arguments=(0, 1),
                layer="multiply_adds",
                macs=tasks * steps * SUMS * lanes,
            ),
            Launch(kernel="copy", arguments=(2, 3), layer="copy"),
        ),
        inputs={},
        outputs={"sums": 1},
    )
    write_kernels(functions, plan, weights, target, path)


if __name__ == "__main__":
    try:
        make_bundle(load_target(sys.argv[1]), Path(sys.argv[2]))
    except GraphoptError as error:
        sys.exit(error.message)
