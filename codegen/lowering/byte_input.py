"""Networks that begin by making bytes of their input: what they make of a photo's bytes.

The first kernel of a quantised network normalises a picture of floats and quantises it. Of a photo
there are but 256 values in each channel, so what it gives is a table; and as that rises or falls
evenly, whole numbers say it: `(value * factor + start) >> SHIFT`, to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from graphopt.codegen.kernels.pose.preprocess import PIXEL, SHIFT
from graphopt.pose.spec import Preprocess
from graphopt.runtime.plan import Launch, Plan, Tensor

VALUES = 256
_STEEPEST = 4
"""Steps of the network's bytes for one of the photo's: products stay within 32 bits."""
_TURNS = (0, 101)
"""How far pictures are turned, so that a kernel that sees more than a pixel is found out."""


@dataclass(frozen=True)
class ByteInput:
    """The bytes that a network makes of its input.

    Args:
        tensor: the plan's, uint8 (1, 1, height, width, PIXEL).
        steps: (3, PIXEL): of each channel factor, start, and what the border becomes.
    """

    tensor: int
    steps: NDArray[np.int32]


def byte_input(
    plan: Plan, weights: bytes, functions: Mapping[str, Any], preprocess: Preprocess
) -> ByteInput | None:
    """What a network makes of photos' bytes; None where it does something else first.

    Args:
        plan: a network's for a CPU, with one input, float32 (1, 3, height, width).
        weights: the content of weights.bin.
        functions: its kernels.
        preprocess: what photos become before.
    """
    (index,) = plan.inputs.values()
    if not plan.launches:
        return None
    first, readers = plan.launches[0], [n for n in plan.launches if index in n.arguments]
    *given, made = first.arguments
    bytes_made = plan.tensors[made]
    shape = (1, 1, *plan.tensors[index].shape[2:], PIXEL)
    constants = {i: plan.tensors[i] for i in given if i != index}
    whole = all(tensor.arena == -1 for tensor in constants.values())
    if readers != [first] or (bytes_made.shape, bytes_made.dtype) != (shape, "uint8") or not whole:
        return None
    arrays = {i: _constant(tensor, weights) for i, tensor in constants.items()}
    table = _table(functions[first.kernel], first, index, arrays, shape, preprocess)
    if table is None:
        return None
    lines = [_line(values[:VALUES].astype(np.int64)) for values in table.T]
    found = [line for line in lines if line is not None]
    if len(found) < PIXEL:
        return None
    return ByteInput(made, np.array([*zip(*found, strict=True), table[VALUES]], np.int32))


def moved_out(plan: Plan, tensor: int) -> Plan:
    """The plan with the launch that makes a tensor, its first one, as a stage of its own.

    The tensor gets memory that nothing else is in.
    """
    first, *rest = plan.launches
    tensors = list(plan.tensors)
    tensors[tensor] = replace(tensors[tensor], arena=None, offset=0)
    launches = (replace(first, stage="input"), *rest)
    return replace(plan, tensors=tuple(tensors), launches=launches)


def _constant(tensor: Tensor, weights: bytes) -> NDArray[Any]:
    count = int(np.prod(tensor.shape))
    return np.frombuffer(weights, tensor.dtype, count, tensor.offset).reshape(tensor.shape)


def _table(
    function: Any,
    launch: Launch,
    source: int,
    constants: Mapping[int, NDArray[Any]],
    shape: Sequence[int],
    preprocess: Preprocess,
) -> NDArray[np.uint8] | None:
    """(VALUES + 1, PIXEL): what a kernel makes of each value 0..255, and of the border's.

    None if a pixel's place, or another pixel, has a say in it.
    """
    module = tvm.IRModule({"first": function.with_attr("global_symbol", "first")})
    built = tvm.tirx.build(module, target=tvm.target.Target("llvm"), pipeline="s_tir")
    height, width = shape[2:4]
    mean, scale = (np.array(n, np.float32)[:, None] for n in (preprocess.mean, preprocess.scale))
    values = np.append(np.arange(VALUES, dtype=np.float32), np.float32(preprocess.pad_value))
    normalised = (values - mean) * scale
    tables = []
    for turn in _TURNS:
        place = (np.arange(height * width) + turn) % len(values)
        picture = normalised[:, place].reshape(1, 3, height, width)
        result = tvm.runtime.empty(tuple(shape), "uint8")
        arrays = {**constants, source: picture}
        operands = [
            tvm.runtime.tensor(np.ascontiguousarray(arrays[i])) for i in launch.arguments[:-1]
        ]
        built["first"](*operands, result)
        bytes_made = result.numpy().reshape(-1, PIXEL)
        table = np.zeros((len(values), PIXEL), np.uint8)
        table[place] = bytes_made
        if len(place) < len(values) or (table[place] != bytes_made).any():
            return None
        tables.append(table)
    return tables[0] if all((table == tables[0]).all() for table in tables) else None


def _line(table: NDArray[np.int64]) -> tuple[int, int] | None:
    """Factor and start whose line, cut to 0..255, is a table [VALUES]; None if there are none."""
    values = np.arange(VALUES)
    # Where the table ends at 0 or 255, the line may go on.
    low = np.where(table == 0, -(2**40), table << SHIFT)
    high = np.where(table == 255, 2**40, ((table + 1) << SHIFT) - 1)
    inside = np.flatnonzero((table > 0) & (table < 255))
    if (table == table[0]).all():
        return 0, int(table[0]) << SHIFT
    if len(inside) < 2:
        return None
    a, b = inside[0], inside[-1]
    middle, reach = (int(table[b] - table[a]) << SHIFT) // (b - a), (1 << SHIFT) // (b - a) + 1
    factors = np.arange(middle - reach, middle + reach + 1)
    factors = factors[np.argsort(np.abs(factors - middle), kind="stable")]
    for some in np.array_split(factors, -(-len(factors) // 4096)):
        first = (low - some[:, None] * values).max(axis=1)
        last = (high - some[:, None] * values).min(axis=1)
        good = (first <= last) & (np.abs(some) <= _STEEPEST << SHIFT)
        good &= (np.abs(first) < 2**30) & (np.abs(last) < 2**30)
        for i in np.flatnonzero(good)[:1]:
            return int(some[i]), int((first[i] + last[i]) // 2)
    return None
