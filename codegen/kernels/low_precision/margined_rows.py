"""The rows of the input that a task of a matrix unit reads, copied with margins of zero points."""

from __future__ import annotations

import math

from tvm import tirx
from tvm.tirx.script import builder as T

from graphopt.codegen.kernels.emit import Expr, view
from graphopt.codegen.kernels.low_precision.amx_tiles import ROWS, TileKernel
from graphopt.codegen.kernels.low_precision.stored_conv import WORD


def copy_rows(k: TileKernel, source: Expr, first: Expr, in_rows: int) -> None:
    """Copy a task's rows of the input, with margins of zero points."""
    conv, lanes = k.spec.conv, k.spec.x.lanes
    height, width = conv.size
    _, left, _, right = conv.pads
    # Whole rows, by the widest vectors that fit.
    at_once = ROWS * WORD // k.spec.itemsize
    at_once = at_once if width * lanes % at_once == 0 else lanes
    x = view(k.p.x, (math.prod(map(int, k.p.x.shape)),))
    zero = tirx.Broadcast(tirx.IntImm(k.spec.x.dtype, k.spec.zero), lanes)
    columns = k.margined
    with T.serial(0, k.all_blocks) as block, T.serial(0, in_rows) as r:
        row = T.bind(first + r)
        start = T.bind((block * in_rows + r) * columns * lanes)

        def fill(low: Expr, count: Expr) -> None:
            with T.serial(0, count) as c:
                T.buffer_store(source, zero, [tirx.Ramp(start + (low + c) * lanes, 1, lanes)])

        with T.If(tirx.all(row >= 0, row < height)):
            with T.Then():
                if left:
                    fill(0, left)
                there = T.bind((block * height + row) * width * lanes)
                with T.serial(0, width * lanes // at_once) as c:
                    value = x[tirx.Ramp(there + c * at_once, 1, at_once)]
                    place = tirx.Ramp(start + left * lanes + c * at_once, 1, at_once)
                    T.buffer_store(source, value, [place])
                if right:
                    fill(left + width, right)
            with T.Else():
                fill(0, columns)
