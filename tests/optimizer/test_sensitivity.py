"""What pruning a layer does to maps and poses, measured without labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from known import values_of
from small_networks import MakeCalibrated, MakeGraph, Normal
from typer.testing import CliRunner

from graphopt.cli import app
from graphopt.errors import InputError, Unsupported
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.least_squares import LeastSquares
from graphopt.ir.block_structure import Block, expand
from graphopt.ir.edit import constant
from graphopt.ir.onnx_io import to_proto
from graphopt.optimizer.sensitivity import sensitivity
from graphopt.optimizer.sensitivity_file import LayerLosses, Loss, Sensitivity, read_sensitivity
from graphopt.optimizer.sensitivity_report import findings
from graphopt.pose.spec import HEAT_IMPORTANCE
from graphopt.runtime.differences import OutputError
from graphopt.runtime.engine import OnnxRuntimeEngine


def _producer(graph: gs.Graph, output: str) -> gs.Node:
    return next(node for node in graph.nodes if node.outputs[0].name == output)


def _error(graph: gs.Graph, changed: gs.Graph, calibration: Calibration) -> float:
    """The maps' error, by running both networks whole."""
    before, after = (OnnxRuntimeEngine(to_proto(g).SerializeToString()) for g in (graph, changed))
    error = OutputError()
    for feed in calibration.feeds(calibration.held_out):
        error.add(*(_read(engine.run(feed)) for engine in (after, before)))
    heat, paf = error.errors["heat"], error.errors["paf"]
    return HEAT_IMPORTANCE * heat + (1 - HEAT_IMPORTANCE) * paf


def _read(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The maps that a decoder reads: all but the background's."""
    return {"heat": outputs["heat"][:, :18], "paf": outputs["paf"]}


def test_layers_and_blocks(small: tuple[gs.Graph, Calibration]) -> None:
    graph, calibration = small
    found = sensitivity(graph, calibration, ratios=[0.5])
    blocks = {layer.name: layer.function_block for layer in found.layers}
    names = [_producer(graph, tensor).name or tensor for tensor in "ceg"]
    assert blocks == dict(
        zip(names, ["backbone", "stage 1 PAFs", "stage 1 heat maps"], strict=True)
    )
    assert [layer.params for layer in found.layers] == [32 * 32 * 9, 32 * 32, 32 * 32]
    assert [layer.macs for layer in found.layers] == [n * 256 for n in (32 * 32 * 9, 1024, 1024)]
    # One layer each: pruning the block is pruning the layer.
    for layer, block in zip(found.layers, found.function_blocks, strict=True):
        assert block.name == layer.function_block
        assert block.losses[0].error == pytest.approx(layer.losses[0].error, rel=1e-3)


@pytest.fixture
def unfitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a layer stays as it is."""
    monkeypatch.setattr(LeastSquares, "solve", lambda s, **_: np.where(s._free, s.present, 0.0))


@pytest.mark.parametrize("tensor", ["c", "e"])
def test_error_is_that_of_the_whole_network(
    small: tuple[gs.Graph, Calibration], tensor: str, unfitted: None
) -> None:
    """Half of the blocks are tiny, so that it is known which ones go."""
    graph, calibration = small
    node = _producer(graph, tensor)
    weight = values_of(node.inputs[1]).copy()
    tiny = np.zeros((4, 8, *weight.shape[2:]), bool)
    tiny[::2] = True
    tiny = expand(tiny, Block(), weight.shape)
    weight[tiny] *= 0.01
    node.inputs[1] = constant(graph, "most", weight)
    found = sensitivity(graph, calibration, ratios=[0.5], block="8x4")
    changed = graph.copy()
    _producer(changed, tensor).inputs[1] = constant(changed, "punched", weight * ~tiny)
    (loss,) = next(x for x in found.layers if x.name == (node.name or tensor)).losses
    expected = _error(graph, changed, calibration)
    assert expected > 1e-4
    assert loss.error == pytest.approx(expected, rel=1e-3)


def test_a_fit_makes_up_for_what_other_channels_know(
    small: tuple[gs.Graph, Calibration], request: pytest.FixtureRequest
) -> None:
    """Every channel comes twice: what is left can do all that the whole layer did."""
    graph, calibration = small
    back = _producer(graph, "a")
    weight = values_of(back.inputs[1]).copy()
    weight[16:] = weight[:16]
    back.inputs[1] = constant(graph, "twice", weight)
    inner = _producer(graph, "c")
    values = values_of(inner.inputs[1]).copy()
    values[:, 16:] *= 0.3
    inner.inputs[1] = constant(graph, "unequal", values)

    def error() -> float:
        return sensitivity(graph, calibration, ratios=[0.5]).layers[0].losses[0].error

    fitted = error()
    request.getfixturevalue("unfitted")
    plain = error()
    assert plain > 0.05
    assert fitted < 0.2 * plain


def test_nothing_to_prune(network: MakeGraph, normal: Normal, calibrated: MakeCalibrated) -> None:
    graph = network(
        "float[1,3,64,64] x",
        "float[1,19,16,16] heat, float[1,38,16,16] paf",
        "b = Conv<strides=[4,4]>(x, w) heat = Conv(b, h) paf = Conv(b, p)",
        w=normal(32, 3, 1, 1),
        h=normal(19, 32, 1, 1),
        p=normal(38, 32, 1, 1),
    )
    with pytest.raises(Unsupported, match="blocks"):
        sensitivity(*calibrated(graph))


def test_claims() -> None:
    """Held against numbers that can be checked by hand."""

    def measured(name: str, params: int, *errors: float) -> LayerLosses:
        losses = [
            Loss(ratio=ratio, error=error, shift=0, oks=1)
            for ratio, error in zip((0.25, 0.5), errors, strict=True)
        ]
        return LayerLosses(name=name, params=params, macs=1, losses=tuple(losses))

    blocks = (
        measured("backbone", 4_000_000, 0.2, 0.4),
        measured("stage 1 PAFs", 1_000_000, 0.05, 0.1),
        measured("stage 2 PAFs", 1_000_000, 0.15, 0.5),
    )
    empty = Sensitivity(block="8x4", images=1, people=1, layers=(), function_blocks=())
    backbone, heat = findings(replace(empty, function_blocks=blocks))
    assert "by the maps' error in 1 of 2 ratios (0.2 and 0.15, 0.4 and 0.5)" in backbone
    # 0.2^2 / 1 and 0.15^2 / 0.25; 0.4^2 / 2 and 0.5^2 / 0.5
    assert "parameters in 2 of 2 ratios (0.04 and 0.09, 0.08 and 0.5)" in backbone
    assert "cannot be told" in heat


def test_command(pose_files: tuple[Path, Path], tmp_path: Path) -> None:
    model, photos = pose_files
    json, plot = tmp_path / "s.json", tmp_path / "s.svg"
    args = ["sensitivity", str(model), "--calib", str(photos), "--ratio", "0.5"]
    result = CliRunner().invoke(app, [*args, "--json", str(json), "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    assert "backbone bears pruning better" in result.stdout
    found = read_sensitivity(json)
    assert [loss.ratio for loss in found.layers[0].losses] == [0.5]
    assert plot.read_text().count("<polyline") == len(found.function_blocks) == 3


def test_no_sensitivities(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text("{}")
    with pytest.raises(InputError, match="holds no sensitivities"):
        read_sensitivity(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_sensitivity(tmp_path / "none.json")
