"""Loops for the kernels that TVM's legalisation made: ours come scheduled."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import dlight
from tvm.s_tir.dlight.analysis import normalize_prim_func
from tvm.s_tir.dlight.base import try_inline
from tvm.s_tir.dlight.cpu.base import CPUScheduleRule

from graphopt.codegen.targets import Target


class Parallel(CPUScheduleRule):  # type: ignore[misc]
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
            if info.name.startswith("unpack") and len(spatial) > 2:
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


def schedule_rest(module: tvm.IRModule, target: Target) -> tvm.IRModule:
    """Schedule every function that is not scheduled yet, under the current TVM target."""
    rule = Parallel(target.lanes) if target.kind == "cpu" else dlight.gpu.Fallback()
    return dlight.ApplyDefaultSchedule(rule)(module)
