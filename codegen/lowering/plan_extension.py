"""Kernels around a network: what its bundle does with a photo before it, and with maps after it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.codegen.lowering.memory_plan import pack_weights
from graphopt.runtime.plan import ALIGNMENT, Launch, Plan, Stage, Tensor


@dataclass(frozen=True)
class Kernels:
    """Kernels that come before or after a network, and the constants that they need.

    A tensor is called as the kernels' parameters are that are it.
    """

    functions: Mapping[str, Any]
    constants: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def packed(self, start: int = 0) -> tuple[bytes, dict[str, Tensor]]:
        """What the constants add to weights.bin, and their tensors there, from byte `start` on."""
        data, offsets = pack_weights(list(self.constants.values()))
        tensors = {
            name: Tensor(
                shape=values.shape, dtype=str(values.dtype), arena=-1, offset=start + offset
            )
            for (name, values), offset in zip(self.constants.items(), offsets, strict=True)
        }
        return data, tensors

    def parameters(self, kernel: str) -> list[tuple[str, tuple[int, ...], str]]:
        """Names, shapes and types of a kernel's parameters."""
        buffers = self.functions[kernel].params
        return [(b.name, tuple(map(int, b.shape)), str(b.dtype)) for b in buffers]


@dataclass
class Placed:
    """The kernels' tensors, each with a place, and their launches.

    Args:
        kernels: whose they are.
        known: tensors that have a place, or are the plan's by number; the others get a place in an
            arena.
        stage: what the launches belong to.
        arena: its number.
        first: how many tensors the plan has already.
    """

    kernels: Kernels
    known: Mapping[str, Tensor | int]
    stage: Stage = "network"
    arena: int = 0
    first: int = 0
    size: int = 0
    tensors: list[Tensor] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)

    def __post_init__(self) -> None:
        for kernel in self.kernels.functions:
            parameters = self.kernels.parameters(kernel)
            for parameter in parameters:
                self._place(*parameter)
            arguments = tuple(self.index[name] for name, *_ in parameters)
            self.launches.append(
                Launch(kernel=kernel, arguments=arguments, layer=kernel, stage=self.stage)
            )

    def added_to(self, plan: Plan) -> Plan:
        """A plan with these tensors and launches besides its own."""
        return replace(
            plan,
            arenas=(*plan.arenas, self.size) if self.size else plan.arenas,
            tensors=(*plan.tensors, *self.tensors),
            launches=(*plan.launches, *self.launches),
        )

    def _place(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        if name in self.index:
            return
        tensor = self.known.get(name)
        if isinstance(tensor, int):
            self.index[name] = tensor
            return
        if tensor is None:
            tensor = Tensor(shape=shape, dtype=dtype, arena=self.arena, offset=self.size)
            size = np.dtype(dtype).itemsize * math.prod(shape)
            self.size += math.ceil(size / ALIGNMENT) * ALIGNMENT
        self.index[name] = self.first + len(self.tensors)
        self.tensors.append(tensor)
