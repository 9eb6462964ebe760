"""A frontier as people read it."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from graphopt.search.frontier import Point, Rejected
from graphopt.search.report import SearchReport

EXACT = "exact"
PRUNED = "exact, truncate-refinement{stages=1}, prune-channels{ratio=0.2}, reconstruct, quantize"


def _point(height: int, precision: str, pipeline: str, ms: float, quality: float) -> Point:
    return Point(
        height=height,
        precision=precision,
        pipeline=pipeline,
        ms=ms,
        self_ap=quality,
        ap=None,
        plain=pipeline in (EXACT, "exact, quantize"),
        command="",
    )


def _report() -> SearchReport:
    whole = _point(368, "float32", EXACT, 100.0, 1.0)
    bytes_ = _point(368, "int8", "exact, quantize", 30.0, 0.98)
    smaller = _point(304, "int8", "exact, quantize", 20.0, 0.90)
    pruned = _point(368, "int8", PRUNED, 25.0, 0.96)
    return SearchReport(
        network="pose.onnx",
        device="local",
        threads=2,
        photos=100,
        fitted=200,
        reference=whole,
        frontier=(whole, bytes_, pruned, smaller),
        plain=(whole, bytes_, smaller),
        rejected=(
            Rejected(304, "float32", EXACT, "368 int8 exact is no slower and no worse", 70.0, 0.9),
            Rejected(272, "float32", EXACT, "304 int8 exact is no slower and no worse", 60.0, 0.8),
        ),
    )


def test_a_table_of_80_columns() -> None:
    stream = io.StringIO()
    Console(file=stream, width=80).print(*_report().parts(), sep="\n")
    lines = stream.getvalue().splitlines()
    assert all(cell_len(line.rstrip()) <= 80 for line in lines)
    (row,) = (line for line in lines if line.split()[3:5] == ["25.0", "4.00"] or " 4.00 " in line)
    assert row.rstrip().endswith("0.940"), "between 0.98 at 30 ms and 0.90 at 20 ms"
    assert "2 left out: another is no slower and no worse" in lines


def test_json() -> None:
    plain = _report().to_plain()
    assert {"height", "precision", "pipeline", "ms", "self_ap", "ap"} <= plain["frontier"][0].keys()
    assert plain["rejected"][0]["why"]
    assert SearchReport.from_plain(plain) == _report()


def test_with_annotations_it_says_whether_self_ap_ranks_as_ap_does() -> None:
    report = _report()
    assert report.rank_correlation is None, "nothing is known without annotations"
    labelled = {
        point: replace(point, ap=ap)
        for point, ap in zip(report.frontier, (0.46, 0.45, 0.40, 0.41), strict=True)
    }
    known = replace(
        report,
        reference=labelled[report.reference],
        frontier=tuple(labelled.values()),
        plain=tuple(labelled[point] for point in report.plain),
    )
    # The last two are the other way round: 1 - 6 * (1 + 1) / (4 * 15).
    assert known.rank_correlation == pytest.approx(0.8)
    stream = io.StringIO()
    Console(file=stream, width=80).print(*known.parts(), sep="\n")
    assert "correlation 0.80" in " ".join(stream.getvalue().split())
