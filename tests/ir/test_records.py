"""Records as JSON: what is written, what is read, and files that were written before."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
from pydantic import Field, ValidationError

from graphopt.analysis.compare import PoseChange
from graphopt.analysis.cost import Cost, LayerCost
from graphopt.analysis.inspection import Comparison, Inspection, PricedLayer
from graphopt.bench.bench_report import BenchReport
from graphopt.compiler.tuning_cache import Tuning
from graphopt.ir.changes import Change, Skip
from graphopt.ir.records import HIDDEN, Record, complaint
from graphopt.optimizer.outcome import PassStep
from graphopt.optimizer.pass_contract import Numerics
from graphopt.optimizer.sensitivity_file import Sensitivity
from graphopt.paper.table2 import Records
from graphopt.pose.spec import PoseSpec
from graphopt.runtime.plan import Manifest, Plan
from graphopt.sparsity.plan import PruningPlan

FILES = Path(__file__).parents[1] / "fixtures" / "json"
KINDS: dict[str, type[Record]] = {
    "bench": BenchReport,
    "bundle_plan": Plan,
    "manifest": Manifest,
    "pose_spec": PoseSpec,
    "pruning_plan": PruningPlan,
    "sensitivity": Sensitivity,
    "table2": Records,
    "tuning": Tuning,
}


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Inner(Record):
    ratio: Annotated[float, Field(gt=0)]
    colour: Colour = Colour.RED


@dataclass(frozen=True)
class Outer(Record):
    inner: tuple[Inner, ...]
    much: Annotated[object, HIDDEN] = None
    nothing: int | None = None

    def __post_init__(self) -> None:
        if self.nothing == 13:
            raise ValueError("bad luck")


@pytest.mark.parametrize("name", KINDS)
def test_files_of_before_are_read_and_written_to_the_letter(name: str) -> None:
    text = (FILES / f"{name}.json").read_text(encoding="utf-8")
    record = KINDS[name].from_json(text)
    assert record.to_json(indent=1) + "\n" == text
    assert json.dumps(record.to_plain()) == json.dumps(json.loads(text))
    assert KINDS[name].from_plain(record.to_plain()) == record
    assert {path.stem for path in FILES.iterdir()} == set(KINDS)


def test_a_plan_from_before_there_was_a_pixel_has_three_bytes_in_one() -> None:
    plain = json.loads((FILES / "bundle_plan.json").read_text(encoding="utf-8"))
    del plain["preparation"]["pixel"]
    text = (FILES / "bundle_plan.json").read_text(encoding="utf-8")
    assert KINDS["bundle_plan"].from_plain(plain) == KINDS["bundle_plan"].from_json(text)


def test_a_report_from_before_there_were_two_contests_was_in_float32() -> None:
    plain = json.loads((FILES / "bench.json").read_text(encoding="utf-8"))
    for key in ("contest", "precision", "oks", "photos", "notes"):
        del plain[key]
    report = BenchReport.from_plain(plain)
    assert report.contest == "float32"
    assert (report.precision, report.oks, report.notes) == ({}, {}, ())


def test_the_json_form() -> None:
    record = Outer((Inner(1), Inner(float("nan"))), much=len)
    text = '{"inner":[{"ratio":1.0,"colour":"red"},{"ratio":null,"colour":"red"}],"nothing":null}'
    assert record.to_json() == text
    assert list(record.to_plain(exclude_none=True)) == ["inner"]


def test_numpy_scalars_are_numbers() -> None:
    record = Outer((Inner(np.float32(0.5)),), nothing=np.int64(3))
    with pytest.warns(UserWarning, match="input_type=int64"):
        plain = record.to_plain()
    assert json.dumps(plain) == json.dumps(json.loads(record.to_json()))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"inner": [], "more": 1}', "Extra inputs are not permitted"),
        ('{"inner": [{"ratio": 1, "more": 1}]}', "Extra inputs are not permitted"),
        ('{"inner": [{"ratio": 0}]}', "Input should be greater than 0"),
        ('{"inner": [{"ratio": "x"}]}', "Input should be a valid number"),
        ('{"inner": [], "nothing": 13}', "bad luck"),
        ("{}", "Field required"),
        ("[]", "Input should be an object"),
    ],
)
def test_what_is_not_read(text: str, what: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Outer.from_json(text)
    assert complaint(raised.value).startswith(what)


def test_a_pass_in_the_report() -> None:
    step = PassStep(
        name="fold{x=1}",
        changes=(Change("a", "folded"), Change("b", "folded")),
        skips=(Skip("c", "no"),),
        max_abs_diff=float("inf"),
        numerics=Numerics.EXACT,
        seconds=0.5,
        ms=None,
        poses=PoseChange(2, 0.25, 3, 1, 0, 1.5, 1),
        cost=Cost.of(()),
        failure="it failed",
        reverted=True,
        remark="said",
    )
    assert step.to_json() == (
        '{"name":"fold{x=1}","changes":2,"skips":[{"node":"c","reason":"no"}],'
        '"max_abs_diff":null,"numerics":"exact","seconds":0.5,"ms":null,"poses":{"images":2,'
        '"error":0.25,"people":3,"lost":1,"added":0,"mean_shift":1.5,"oks":1.0}}'
    )


def test_costs() -> None:
    layer = LayerCost("a", "Conv", (1, 1), (1, 1), (1, 1), 1, (1, 2, None), 8, None, 32, 0.5)
    cost = Cost.of([layer, replace(layer, macs=5)])
    assert cost.to_json() == (
        '{"params":16,"macs":5,"kept_params":8,"kept_macs":2,"bytes":64,"nodes":2}'
    )
    priced = PricedLayer("a", "Conv", (), (), (), None, None, 8, None, 32, 1, ms=1, bound="launch")
    a = Inspection("m", 17, "", {}, {"x": (1, None)}, {}, {}, cost, {"Conv": 2}, (layer,))
    told = Comparison.of(a, replace(a, layers=(priced,))).to_plain()
    assert list(told["b"]["layers"][0])[-2:] == ["ms", "bound"]
    # What differs is told without times.
    assert told["difference"] == [
        {
            "name": "a",
            "a": told["a"]["layers"][0],
            "b": {k: v for k, v in told["b"]["layers"][0].items() if k not in ("ms", "bound")},
        }
    ]
