"""The paper's tables beside our own counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from graphopt.analysis.cost import cost_of
from graphopt.bench import postprocessing
from graphopt.bench.postprocessing import PostReport, Way
from graphopt.cli import app
from graphopt.paper import reproduce
from graphopt.paper import table2 as through
from graphopt.paper.published import Model
from graphopt.zoo.blocks import Net
from graphopt.zoo.catalogue import build


def told(*words: str) -> list[dict[str, str]]:
    """The rows that `graphopt reproduce … --json` prints, by column; of two columns of a name the
    first."""
    done = CliRunner().invoke(app, ["reproduce", *words, "--json"])
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    pairs = [list(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    return [dict(reversed(cells)) for cells in pairs]


def test_table_1() -> None:
    rows = told("table1")
    assert [(row["layers"], row["off"]) for row in rows] == [
        ("24", "-0.2%"),
        ("36", "-0.3%"),
        ("72", "+0.7%"),
        ("147", "+0.0%"),
    ]


def test_table_2() -> None:
    rows = {row["model"]: row for row in told("table2")}
    assert rows["OpenPose"]["GMACs"] == "135.93"
    assert rows["HRNet"]["why"] == "MACs not reproduced"
    assert rows["EfficientHRNet H-4"]["why"].endswith("3.76 M, 2.10 G")
    assert rows["Ours ResNet50_3 (1.80x)"]["GMACs"] == ""


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("efficienthrnet-h4", 3_757_196, 2.105),
        ("efficienthrnet-h3", 6_962_372, 4.209),
        ("higherhrnet-w32", 28_645_331, 47.864),
    ],
)
def test_the_counter_that_explains_three_rows(name: str, params: int, macs: float) -> None:
    """What the authors' own summary prints of their networks."""
    counted = reproduce.counted_by_authors(cost_of(build(name, seed=None)))
    assert (counted[0], round(counted[1] / 1e9, 3)) == (params, macs)


@pytest.mark.parametrize(
    ("scale", "params", "macs"), [(0, 23.3, 25.6), (1, 16.0, 14.2), (2, 10.3, 7.7)]
)
def test_the_other_scales(scale: int, params: float, macs: float) -> None:
    """As Neff et al. (2020) print them, by the same counter."""
    graph = build(f"efficienthrnet-h{scale}", seed=None)
    counted = reproduce.counted_by_authors(cost_of(graph))
    assert (counted[0] / 1e6, counted[1] / 1e9) == pytest.approx((params, macs), rel=0.01)


def tiny(name: str, seed: int | None = 0) -> Any:
    net = Net((1, 3, 16, 16), seed)
    return net.finish({"y": net.unit(net.unit(net.image, 8, 3), 8, 3)})


def test_figure_3_with_a_network_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    words = ["zoo", "build", "lightweight-openpose", "--refinements", "0", "-o", str(path)]
    assert CliRunner().invoke(app, words).exit_code == 0
    rows = {row["network"]: row for row in told("fig3", "--network", str(path))}
    assert rows["resnet50-72"]["paper"] == "1.42"
    assert rows["lightweight-openpose"]["times as fast"] == "1.00"
    assert float(rows[str(path)]["times as fast"]) > 1.2


def test_post_processing(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {
        name: Way(ms=(1.0, 2.0), found=(1, 2), error=(0.0, 0.0))
        for name in ("PAF, NumPy", "associative embedding, NumPy and SciPy")
    }
    report = PostReport(people=(1, 30), ways=ways, unavailable={})
    monkeypatch.setattr(postprocessing, "compare_post_processing", lambda **_: report)
    rows = told("postprocessing")
    assert [(row["people: 30"], row["paper, ms"]) for row in rows] == [
        ("2.00", "20"),
        ("2.00", "2000"),
    ]


def test_through_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network is optimised, compiled and recorded; the second time nothing is done again."""
    monkeypatch.setattr(through, "TABLE_2", [Model("Tiny", "tiny", 0.0, 0.0, 0.0, True)])
    monkeypatch.setattr(through, "build", tiny)
    monkeypatch.setattr(through, "LARGEST", 0)
    (row,) = told("table2", "--full", str(tmp_path))
    assert "fold-batchnorm 2" in row["changed"]
    assert float(row["cpu"]) < 1e-3
    assert row["opencl"] == ""

    def again(*_: Any, **__: Any) -> Any:
        raise AssertionError("compiled again")

    monkeypatch.setattr(through, "compile_model", again)
    assert told("table2", "--full", str(tmp_path)) == [row]


@pytest.mark.parametrize(
    "words", [["table1", "--full", "d"], ["table2", "--network", "n.onnx"], ["table3"]]
)
def test_options_that_do_not_fit(words: list[str]) -> None:
    assert CliRunner().invoke(app, ["reproduce", *words]).exit_code == 2
