"""Loops for the kernels that TVM's legalisation made: ours come scheduled."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import dlight
from tvm.s_tir.dlight.analysis import normalize_prim_func
from tvm.s_tir.dlight.base import try_inline
from tvm.s_tir.dlight.cpu.base import CPUScheduleRule
from tvm.s_tir.dlight.gpu.base import GPUScheduleRule

from graphopt.codegen.targets import Target

UNPACKS_CHANNELS = "graphopt.unpacks_channels"
"""Annotation of a block, and attribute of its computation: it makes (1, C, H, W) of blocked
channels."""


class Parallel(CPUScheduleRule):
    """All outer loops of a block, fused, over the cores; the innermost one as vectors.

    Of a reduction, only a block of channels is a vector: elsewhere it would gather its elements.

    Args:
        lanes: channels in a block.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes

    def apply(self, func: tirx.PrimFunc, target: Any, _: bool) -> Any:
        """The schedule, or None where the function has no blocks to schedule."""
        if not isinstance(func, tirx.PrimFunc) or not self.is_target_available(target):
            return None
        schedule = s_tir.Schedule(func)
        infos = normalize_prim_func(schedule)
        if infos is None:
            return None
        for info in try_inline(schedule, infos):
            loops = schedule.get_loops(info.block_rv)
            spatial = [
                loop for loop, kind in zip(loops, info.dom_kind(), strict=True) if kind == "S"
            ]
            reduction = [loop for loop in loops if loop not in spatial]
            if not spatial:
                continue
            if info.name.startswith("matmul") and _product(schedule, info.block_rv, self._lanes):
                continue
            if UNPACKS_CHANNELS in schedule.get(info.block_rv).annotations and len(spatial) > 2:
                # All channels of a block while a row of it is in cache, not one after the other.
                *outer, channel, row, column = spatial
                block, lane = schedule.split(channel, factors=[None, self._lanes])
                schedule.reorder(*outer, block, row, lane, column)
                schedule.parallel(schedule.fuse(*outer, block, row))
                schedule.vectorize(schedule.split(column, factors=[None, 16])[1])
                continue
            if not reduction:
                fused, inner = schedule.split(schedule.fuse(*spatial), factors=[None, 16])
                schedule.vectorize(inner)
                schedule.parallel(fused)
                continue
            blocked = int(schedule.get(spatial[-1]).extent) == self._lanes
            block = [spatial.pop()] if blocked else []
            schedule.reorder(*spatial, *reduction, *block)
            if spatial:
                schedule.parallel(schedule.fuse(*spatial))
            if blocked:
                schedule.vectorize(*block)
                schedule.decompose_reduction(info.block_rv, reduction[0])
        return schedule


ROWS = 6
"""Most rows of a product that are computed at once: as many vectors of sums stay in registers."""


MOST_ROWS = 30
"""Most rows that are computed at once where they have no divisor of a few."""
STACK = 1024
"""Bytes of a buffer from which on TVM has it on the heap, where sums are no registers."""


def _tile(extent: int, most: int) -> int:
    """The largest divisor of an extent that is no larger than `most`: tiles have no remainders."""
    return next(size for size in range(min(extent, most), 0, -1) if extent % size == 0)


def columns_at_once(columns: int, lanes: int) -> int:
    """Columns of a product that a CPU computes at once: two vectors, or a divisor of it all."""
    return _tile(columns, 2 * lanes)


def _product(schedule: Any, block: Any, lanes: int, group: int = 0) -> bool:
    """Schedule a matrix product by register tiles: some rows times a vector of columns.

    Each vector of the right matrix is loaded once for all rows of a tile, and each number of the
    left one is multiplied into a whole vector.

    Args:
        schedule: of the function.
        block: the product's; its last loops are rows, columns and the sum.
        lanes: numbers in a vector.
        group: work-items in a group of a GPU; 0 is a CPU.

    Returns:
        Whether it was done: not where the columns have no divisor to make vectors of.
    """
    loops = schedule.get_loops(block)
    if len(loops) == 2:  # a vector times a matrix: normalising dropped the only row
        loops = [schedule.add_unit_loop(loops[0]), *loops]
    if len(loops) < 3:
        return False
    *batch, row, column, inner = loops
    rows, columns = (int(schedule.get(loop).extent) for loop in (row, column))
    height = _tile(rows, 4 if group else ROWS)
    width = _tile(columns, lanes) if group else columns_at_once(columns, lanes)
    if not group and height < 3 <= rows <= MOST_ROWS:
        # A pose's 17 joints have no divisor: all of them, and fewer columns.
        height = rows
        while width % 2 == 0 and 4 * height * width >= STACK:
            width //= 2
    if width < min(columns, 4):
        return False
    outer_row, row = schedule.split(row, factors=[None, height])
    outer_column, column = schedule.split(column, factors=[None, width])
    schedule.reorder(*batch, outer_row, outer_column, inner, row, column)
    task = schedule.fuse(*batch, outer_row, outer_column)
    # Sums of a task of its own: small buffers are registers.
    written = schedule.cache_write(block, 0, "local" if group else "global")
    if group:
        task, item = schedule.split(task, factors=[None, group])
        schedule.bind(task, "blockIdx.x")
        schedule.bind(item, "threadIdx.x")
        schedule.reverse_compute_at(written, item)
    else:
        schedule.parallel(task)
        schedule.reverse_compute_at(written, task)
    schedule.unroll(row)
    if width > 1:
        schedule.vectorize(column)
        schedule.vectorize(schedule.get_loops(written)[-1])
    start = schedule.decompose_reduction(block, inner)
    *_, row, column = schedule.get_loops(start)
    schedule.unroll(row)
    if width > 1:
        schedule.vectorize(column)
    return True


class Products(GPUScheduleRule):
    """Matrix products on a GPU, a register tile a work-item; other functions are left alone.

    Args:
        lanes: numbers in a vector.
        group: work-items in a group.
    """

    def __init__(self, lanes: int, group: int) -> None:
        self._lanes, self._group = lanes, group

    def apply(self, func: tirx.PrimFunc, target: Any, _: bool) -> Any:
        """The schedule, or None where the function is no product alone."""
        if not isinstance(func, tirx.PrimFunc) or not self.is_target_available(target):
            return None
        schedule = s_tir.Schedule(func)
        infos = normalize_prim_func(schedule)
        if infos is None or len(infos) != 1 or not infos[0].name.startswith("matmul"):
            return None
        done = _product(schedule, infos[0].block_rv, self._lanes, self._group)
        return schedule if done else None


def schedule_rest(module: tvm.IRModule, target: Target) -> tvm.IRModule:
    """Schedule every function that is not scheduled yet, under the current TVM target."""
    if target.kind == "cpu":
        return dlight.ApplyDefaultSchedule(Parallel(target.lanes))(module)
    products = Products(target.lanes, target.work_group)
    return dlight.ApplyDefaultSchedule(products, dlight.gpu.Fallback())(module)
