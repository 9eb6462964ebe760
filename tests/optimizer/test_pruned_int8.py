"""Pruned to a target, then stored in eight bits: what was pruned stays away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.analysis.cost import cost_of
from graphopt.errors import UsageError
from graphopt.ir.block_structure import BLOCKS, kept_mask
from graphopt.ir.graph import constant_of, label, stored
from graphopt.ir.onnx_io import load_model, to_proto
from graphopt.optimizer.optimize import optimize
from graphopt.optimizer.options import OptimizeOptions
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.sparsity.plan import read_plan


def test_prune_first_then_quantise(pose_files: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = pose_files
    output = tmp_path / "small.onnx"
    options = OptimizeOptions(
        preset="exact", compression=1.5, int8=True, calib=photos, verify="off"
    )
    optimize(model, output, options)
    plan = read_plan(tmp_path / "small.plan.json")
    assert plan.block == "16x4"
    graph = load_model(output)
    nodes = {label(node): node for node in graph.nodes if node.op == "Conv"}
    for name, ratio in plan.layers.items():
        whole = constant_of(stored(nodes[name].inputs[1]))
        assert whole is not None
        assert whole.dtype == np.int8
        mask = kept_mask(whole, BLOCKS[plan.block])
        assert np.count_nonzero(~mask) >= int(ratio * mask.size)
    cost, before = cost_of(graph), cost_of(load_model(model))
    assert cost.macs == before.macs
    assert cost.kept_macs < before.macs / 1.4
    (given,) = graph.inputs
    feed = {given.name: np.zeros(given.shape, np.float32)}
    assert OnnxRuntimeEngine(to_proto(graph).SerializeToString()).run(feed)


def test_quantised_once(pose_files: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = pose_files
    options = OptimizeOptions(passes="quantize", int8=True, calib=photos, max_ap_drop=0.1)
    with pytest.raises(UsageError, match="--passes names quantize"):
        optimize(model, tmp_path / "small.onnx", options)
