"""Graphs from ONNX messages and back: nothing is printed, and nobody's log level is changed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx_graphsurgeon.util.exception import OnnxGraphSurgeonException

from graphopt.ir.conversion import export_message, import_message


@pytest.fixture
def twins() -> gs.Graph:
    """Two nodes of one name, which onnx_graphsurgeon warns of."""
    x, y, z = (gs.Variable(name, np.dtype(np.float32), (1,)) for name in "xyz")
    nodes = [gs.Node("Relu", "twin", {}, [x], [y]), gs.Node("Abs", "twin", {}, [y], [z])]
    return gs.Graph(nodes, [x], [z])


def test_warnings_stay_out_of_results(twins: gs.Graph, capsys: pytest.CaptureFixture[str]) -> None:
    level = gs.logger.G_LOGGER.severity
    again = import_message(export_message(twins))
    assert [node.op for node in again.nodes] == ["Relu", "Abs"]
    assert capsys.readouterr().out == ""
    assert gs.logger.G_LOGGER.severity == level
    gs.export_onnx(twins)
    assert "share the same name" in capsys.readouterr().out


def test_the_level_is_put_back_after_an_error(twins: gs.Graph) -> None:
    level = gs.logger.G_LOGGER.severity
    twins.outputs[0].dtype = None
    with pytest.raises(OnnxGraphSurgeonException):
        export_message(twins)
    assert gs.logger.G_LOGGER.severity == level
    assert isinstance(export_message(twins, check_types=False), onnx.ModelProto)


def test_importing_graphopt_changes_no_level() -> None:
    program = (
        "import onnx_graphsurgeon as gs\n"
        "level = gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.VERBOSE\n"
        "import graphopt.ir.onnx_io, graphopt.optimizer.pipeline\n"
        "assert gs.logger.G_LOGGER.severity == level"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
