"""Which loops TVM's kernels get is said by annotations, not by their names."""

from __future__ import annotations

import pytest
import tvm
from tvm import te

from graphopt.codegen.linking.machine_code import tvm_target
from graphopt.codegen.lowering.schedule import UNPACKS_CHANNELS, schedule_rest
from graphopt.codegen.targets import load_target


def scheduled(name: str, *, unpacks: bool) -> str:
    """The loops of a kernel that makes (1, C, H, W) of blocked channels."""
    target = load_target("cpu")
    lanes = target.lanes
    x = te.placeholder((1, 2, 6, 32, lanes), name="x")
    y = te.compute(
        (1, 2 * lanes, 6, 32),
        lambda n, c, h, w: x[n, c // lanes, h, w, c % lanes],
        name=name,
        attrs={UNPACKS_CHANNELS: True} if unpacks else None,
    )
    function = te.create_prim_func([x, y]).with_attr("global_symbol", "main")
    with tvm_target(target):
        return str(schedule_rest(tvm.IRModule({"main": function}), target)["main"])


@pytest.mark.parametrize("name", ["unpack", "other"])
def test_blocks_that_unpack_channels_are_known_by_their_annotation(name: str) -> None:
    lanes = load_target("cpu").lanes
    # A task is a row of a block of channels, the vectors 16 of its pixels.
    assert f"T.parallel({2 * 6})" in scheduled(name, unpacks=True)
    assert f"T.parallel({2 * lanes * 6 * 32 // 16})" in scheduled(name, unpacks=False)
