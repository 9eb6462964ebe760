"""Importing this gives every tensor of an OpenCL bundle a buffer of its own.

A simulator sees an access outside a buffer, but not one that strays from a tensor into its
neighbour in the same arena or among the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.runtime import open as opening
from graphopt.runtime.opencl import OpenClRunner
from graphopt.runtime.plan import Tensor
from graphopt.runtime.runner import byte_size


class OwnBuffers(OpenClRunner):
    """The runner, without sub-buffers; for plans in which no two tensors are the same memory."""

    def _tensor(self, context: Any, memories: Mapping[int, Any], tensor: Tensor) -> Any:
        flags, size = self._cl.mem_flags, byte_size(tensor)
        if tensor.arena != -1:
            return self._cl.Buffer(context, flags.READ_WRITE, size)
        weights = self.bundle.read("weights.bin")[tensor.offset : tensor.offset + size]
        copied = flags.READ_ONLY | flags.COPY_HOST_PTR
        return self._cl.Buffer(context, copied, hostbuf=np.frombuffer(weights, np.uint8))


setattr(opening, "OpenClRunner", OwnBuffers)  # noqa: B010 (mypy knows it as no part of it)
