"""Pruning plans as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.errors import InputError
from graphopt.sparsity.plan import PruningPlan, read_plan, write_plan


def test_what_is_written_is_read(tmp_path: Path) -> None:
    plan = PruningPlan(block="16x4", layers={"conv5_1/sep": 0.8, "none": 0})
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"layers": {"a": 1.0}}', r"layers\.a: .*less than 1"),
        ('{"layers": {"a": "much"}}', r"layers\.a"),
        ('{"block": "3x3", "layers": {}}', "block: .*'8x4'"),
        ('{"layers": {}, "ratio": 0.5}', "ratio"),
        ("no plan", "no pruning plan: Invalid JSON"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match=reason):
        read_plan(tmp_path / "plan.json")


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the pruning plan"):
        read_plan(tmp_path / "plan.json")
