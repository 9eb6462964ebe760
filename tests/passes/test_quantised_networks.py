"""Passes on networks that come quantised: weights stay whole numbers, or a skip says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.ir.onnx_io import load_model
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.syntax import parse_pipeline

RNG = np.random.default_rng(0)
BODY = """
    q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
    f1 = DequantizeLinear<axis=0>(w1, s1) c1 = Conv<pads=[3,3,3,3]>(d, f1)
    n = BatchNormalization(c1, one, none, none, one)
    g = Sigmoid(n) m = Mul(n, g)
    q1 = QuantizeLinear(m, s, z) d1 = DequantizeLinear(q1, s, z)
    f2 = DequantizeLinear(w2, s) c2 = Conv<pads=[2,2,2,2], dilations=[2,2]>(d1, f2)
    q2 = QuantizeLinear(c2, t, z) d2 = DequantizeLinear(q2, t, z)
    r = Relu(d2) e = DequantizeLinear(w2, s) i = Identity(e)
    y = Conv<pads=[1,1,1,1]>(r, i)"""
CONSTANTS = {
    "s": np.float32(0.02),
    "t": np.float32(0.1),
    "z": np.uint8(120),
    "w1": RNG.integers(-127, 128, (32, 3, 7, 7)).astype(np.int8),
    "s1": RNG.uniform(1e-3, 3e-3, 32).astype(np.float32),
    "w2": RNG.integers(-127, 128, (32, 32, 3, 3)).astype(np.int8),
    "one": np.ones(32, np.float32),
    "none": np.zeros(32, np.float32),
}
QUANTISED = "its weight is quantised"

PASSES: dict[str, tuple[int, set[str]]] = {
    "canonicalize": (1, set()),
    "fold-batchnorm": (0, {"the weight beside it is quantised"}),
    "undilate-conv": (0, {QUANTISED}),
    "stack-large-conv": (0, {QUANTISED}),
    "replace-swish": (1, set()),
    "prune-blocks{ratio=0.5}": (0, {QUANTISED}),
    "prune-channels{ratio=0.5}": (0, {QUANTISED}),
    "pack-weights": (0, set()),
}


@pytest.mark.parametrize("passes", PASSES)
def test_weights_stay_whole_numbers(
    passes: str, proto: Callable[..., onnx.ModelProto], tmp_path: Path
) -> None:
    changes, reasons = PASSES[passes]
    model = proto("float[1,3,16,24] x", "float[1,32,16,24] y", BODY, **CONSTANTS)
    onnx.save(model, tmp_path / "net.onnx")
    result = run_pipeline(load_model(tmp_path / "net.onnx"), parse_pipeline(passes), verify="each")
    (step,) = result.steps
    assert len(step.changes) == changes
    told = "; ".join(skip.reason for skip in step.skips)
    assert all(reason in told for reason in reasons)
    kept = {tensor.name for tensor in result.graph.tensors().values() if tensor.dtype == np.int8}
    assert {"w1", "w2"} <= kept
