"""A tensor's numbers in memory of another tensor: where a network's input is but reshaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.emit import argument, grid, kernel, view
from graphopt.codegen.targets import Target

RUN = 64
"""Numbers that a task on a CPU copies."""


def build(source: Sequence[int], result: Sequence[int], dtype: str, target: Target) -> Any:
    """The kernel as a TIR PrimFunc; parameters x and y, equally many numbers in the same order."""
    count = math.prod(source)
    run = RUN if target.kind == "cpu" else 1
    with kernel("copy") as get:
        arguments = [argument("x", source, dtype), argument("y", result, dtype)]
        x, y = (view(one, (count,)) for one in arguments)
        with (
            grid(target, -(-count // run)) as (task,),
            T.serial(0, T.min(run, count - task * run)) as i,
        ):
            at = T.bind(task * run + i)
            T.buffer_store(y, x[at], [at])
    return get()
