"""Compact weights: the same network in fewer bytes, for onnxruntime and for ourselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from typer.testing import CliRunner

from graphopt.analysis.cost import cost_of
from graphopt.cli import app
from graphopt.errors import InputError, Unsupported
from graphopt.ir.block_structure import Block, expand
from graphopt.ir.graph import constant_of
from graphopt.ir.onnx_io import load_model, save_model, to_proto
from graphopt.ir.packing import NAME, VERSION, pack, unpack
from graphopt.optimizer.pass_contract import Numerics, Outcome
from graphopt.passes.pack_weights import PackWeights

Network = Callable[..., gs.Graph]
Rewrite = Callable[..., tuple[gs.Graph, Outcome]]


EIGHT = Block(8, 4)


def punched(*shape: int, density: float = 0.5, block: Block = EIGHT) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    mask = rng.random(block.mask_shape(shape)) < density
    return rng.standard_normal(shape).astype(np.float32) * expand(mask, block, shape)


WEIGHTS = {"w1": punched(40, 18, 3, 3), "w2": punched(64, 40, 1, 1), "w3": punched(64, 1, 3, 3)}


@pytest.fixture
def small(network: Network) -> gs.Graph:
    return network(
        "float[1,18,9,11] x",
        "float[1,64,9,11] y, float[1,64,9,11] z",
        """a = Conv<pads=[1,1,1,1]>(x, w1)
           r = Relu(a)
           y = Conv(r, w2)
           s = Conv(a, w2)
           z = Conv<pads=[1,1,1,1], group=64>(s, w3)""",
        **WEIGHTS,
    )


@pytest.mark.parametrize("block", [Block(), Block(4, 4), Block(16, 4), Block(19, 6)])
@pytest.mark.parametrize("density", [0.02, 0.5, 1.0])
def test_unpacked_is_what_was_packed(block: Block, density: float) -> None:
    weight = punched(119, 46, 3, 3, density=density)
    packed = pack(weight, block, np.float32)
    np.testing.assert_array_equal(unpack(packed), weight)
    assert packed.values.any(axis=(1, 2)).all()


def test_gaps_are_as_small_as_their_type_allows() -> None:
    weight = np.zeros((8, 4 * 70000, 1, 1), np.float32)
    for last, dtype in [(255, np.uint8), (256, np.uint16), (65536, np.uint32)]:
        weight[:] = 0
        weight[0, 4 * last] = 1
        packed = pack(weight, Block(), np.float32)
        assert packed.gaps.dtype == dtype
        assert packed.gaps.tolist() == [last]


def test_outputs_stay_equal(small: gs.Graph, rewrite: Rewrite) -> None:
    packed, outcome = rewrite(small, PackWeights(), tolerance=0)
    assert [node.op for node in packed.nodes].count(NAME) == 2
    assert len(outcome.changes) == 2


def test_half_precision_is_approximate(small: gs.Graph, rewrite: Rewrite) -> None:
    chosen = PackWeights(values="float16")
    assert chosen.numerics is Numerics.APPROXIMATE
    assert PackWeights().numerics is Numerics.EXACT
    rewrite(small, chosen, tolerance=2e-3)


def test_onnxruntime_expands_when_it_loads(
    small: gs.Graph, rewrite: Rewrite, tmp_path: Path
) -> None:
    packed, _ = rewrite(small, PackWeights())
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(to_proto(packed).SerializeToString(), options)
    ops = {node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node}
    assert ops <= {"Conv", "FusedConv", "Relu"}


def test_a_packed_file_is_read_as_the_dense_network(
    small: gs.Graph, rewrite: Rewrite, tmp_path: Path
) -> None:
    packed, _ = rewrite(small, PackWeights())
    save_model(packed, tmp_path / "packed.onnx")
    (function,) = onnx.load(tmp_path / "packed.onnx").functions
    assert f"version {VERSION}" in function.doc_string
    again = load_model(tmp_path / "packed.onnx")
    assert {node.op for node in again.nodes} == {"Conv", "Relu"}
    assert not again.functions
    tensors = again.tensors()
    for name, weight in WEIGHTS.items():
        np.testing.assert_array_equal(constant_of(tensors[name]), weight)


@pytest.mark.parametrize("values", ["float32", "float16"])
def test_a_file_is_hardly_larger_than_its_values(
    values: Literal["float32", "float16"], network: Network, rewrite: Rewrite, tmp_path: Path
) -> None:
    weight = punched(256, 256, 3, 3, density=0.4)
    graph = network("float[1,256,5,5] x", "float[1,256,3,3] y", "y = Conv(x, w)", w=weight)
    packed, _ = rewrite(graph, PackWeights(values=values), tolerance=2e-3)
    save_model(packed, tmp_path / "packed.onnx")
    alone = np.count_nonzero(weight) * np.dtype(values).itemsize
    assert alone < (tmp_path / "packed.onnx").stat().st_size < 1.08 * alone


def as_bytes(network: Network) -> gs.Graph:
    """A pruned layer of whole numbers."""
    weight = np.rint(40 * punched(64, 64, 3, 3, block=Block(16, 4))).astype(np.int8)
    return network(
        "float[1,64,9,11] x",
        "float[1,64,9,11] y",
        """q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            w = DequantizeLinear<axis=0>(v, t, n)
            y = Conv<pads=[1,1,1,1]>(d, w)""",
        v=weight,
        s=np.float32(0.02),
        z=np.uint8(128),
        t=np.geomspace(0.001, 0.01, 64).astype(np.float32),
        n=np.zeros(64, np.int8),
    )


def test_whole_numbers_stay_whole(network: Network, rewrite: Rewrite, tmp_path: Path) -> None:
    graph = as_bytes(network)
    packed, outcome = rewrite(graph, PackWeights(), tolerance=0)
    assert [change.node for change in outcome.changes] == ["y"]
    assert {node.op for node in packed.nodes} >= {NAME, "Cast"}
    save_model(graph, tmp_path / "dense.onnx")
    save_model(packed, tmp_path / "packed.onnx")
    dense, compact = ((tmp_path / f"{name}.onnx").stat().st_size for name in ("dense", "packed"))
    weight = constant_of(graph.tensors()["v"])
    assert weight is not None
    assert np.count_nonzero(weight) < compact < 0.7 * dense
    again = load_model(tmp_path / "packed.onnx")
    assert [n.op for n in again.nodes] == [n.op for n in graph.nodes]
    stored = constant_of(again.tensors()["v"])
    assert stored is not None
    assert stored.dtype == np.int8
    np.testing.assert_array_equal(stored, weight)
    assert cost_of(again).kept_macs == cost_of(graph).kept_macs < 0.6 * cost_of(graph).macs


def test_onnxruntime_runs_packed_whole_numbers_as_whole_numbers(
    network: Network, rewrite: Rewrite, tmp_path: Path
) -> None:
    packed, _ = rewrite(as_bytes(network), PackWeights())
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    ort.InferenceSession(to_proto(packed).SerializeToString(), options)
    run = onnx.load(tmp_path / "run.onnx").graph
    assert "ExpandBlocks" not in {node.op_type for node in run.node}
    types = {i.data_type for i in run.initializer if list(i.dims) == [64, 64, 3, 3]}
    assert types == {onnx.TensorProto.INT8}


def test_what_it_leaves_alone(network: Network, rewrite: Rewrite) -> None:
    graph = network(
        "float[1,64,5,5] x",
        "float[1,64,5,5] y",
        "a = Conv(x, w1)\nb = Conv(a, w2)\ny = Conv<group=64>(b, w3)",
        w1=punched(64, 64, 1, 1, density=1.0),
        w2=punched(64, 64, 1, 1) * np.float32(1e6),
        w3=punched(64, 1, 1, 1),
    )
    # Full of other numbers than zeros; past the largest half; too small to matter.
    cases: list[tuple[Literal["float32", "float16"], str]] = [("float32", "a"), ("float16", "b")]
    for values, left in cases:
        packed, outcome = rewrite(graph, PackWeights(values=values), tolerance=2e-3)
        assert [skip.node for skip in outcome.skips] == [left]
        assert [node.op for node in packed.nodes].count(NAME) == 1


def test_a_newer_format_is_refused(small: gs.Graph, rewrite: Rewrite, tmp_path: Path) -> None:
    packed, _ = rewrite(small, PackWeights())
    model = to_proto(packed)
    next(o for o in model.opset_import if o.domain == "graphopt").version = VERSION + 1
    onnx.save(model, tmp_path / "newer.onnx")
    with pytest.raises(Unsupported, match="compact weights of version 2"):
        load_model(tmp_path / "newer.onnx")


def test_pack_and_unpack(small: gs.Graph, tmp_path: Path) -> None:
    dense, packed, again = (tmp_path / f"{name}.onnx" for name in ("dense", "packed", "again"))
    save_model(small, dense)
    done = CliRunner().invoke(app, ["pack", str(dense), "-o", str(packed)])
    assert done.exit_code == 0
    assert "% of" in done.stdout
    assert packed.stat().st_size < 0.8 * dense.stat().st_size
    done = CliRunner().invoke(app, ["unpack", str(packed), "-o", str(again)])
    assert done.exit_code == 0
    model = onnx.load(again)
    assert not model.functions
    assert "graphopt" not in {opset.domain for opset in model.opset_import}
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    for name, weight in WEIGHTS.items():
        np.testing.assert_array_equal(stored[name], weight)
    for command in ("pack", "unpack"):
        done = CliRunner().invoke(app, [command, str(dense), "-o", str(dense)])
        assert isinstance(done.exception, InputError)
