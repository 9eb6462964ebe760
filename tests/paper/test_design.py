"""Depth for width, at the same number of multiply-adds."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from graphopt.analysis.cost import cost_of
from graphopt.analysis.latency.device import load_device
from graphopt.cli import app
from graphopt.errors import InputError
from graphopt.ir.onnx_io import load_model
from graphopt.paper.design import design
from graphopt.zoo.catalogue import trained


def test_multiply_adds_are_kept() -> None:
    found = design("resnet50", [24, 72], 12.5, load_device("adreno-640"), refinements=0)
    shallow, deep = found.rows
    assert all(row.macs / 1e9 == pytest.approx(12.5, rel=0.01) for row in found.rows)
    assert shallow.width > 2 * deep.width
    assert min(row.ms for row in found.rows) > 0


def test_the_built_network_is_the_one_shown(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    words = ["design", "--gmacs", "16", "--depths", "36", "--build", "36", "-o", str(path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "Accuracy is the paper's" in " ".join(done.stdout.split())
    cost = cost_of(load_model(path))
    # Full width at 36 layers is the family's own second network.
    assert (trained(cost), round(cost.macs / 1e9, 3)) == (6_710_706, 16.004)


@pytest.mark.parametrize(
    ("backbone", "depth", "gmacs", "complaint"),
    [
        ("vgg", 24, 16, "no backbone 'vgg'"),
        ("resnet50", 25, 16, "cannot have 25 layers"),
        ("resnet50", 24, 2, "no width of 24 layers costs 2 GMACs"),
    ],
)
def test_refused(backbone: str, depth: int, gmacs: float, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        design(backbone, [depth], gmacs, load_device("adreno-640"))
