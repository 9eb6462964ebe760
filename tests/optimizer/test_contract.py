"""The pass contract: looked at when a pass is loaded, and again when it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from known import constant_in, known
from small_networks import MakeGraph, Normal

from graphopt.analysis.latency.device import load_device
from graphopt.errors import CheckFailed, InputError
from graphopt.ir.edit import emit, flaw_of
from graphopt.ir.graph import label
from graphopt.optimizer.contract_check import fault_of
from graphopt.optimizer.manual import catalogue, manual_of, numerics_of
from graphopt.optimizer.options import VerifyMode
from graphopt.optimizer.pass_contract import (
    AnyPass,
    Change,
    Context,
    Numerics,
    Pass,
    PreparedPass,
    Skip,
    option,
    quoted,
)
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.registry import Passes, find_passes
from graphopt.optimizer.syntax import lookup, parse_pipeline

GOOD = """from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, Optional
from pydantic import Field
from graphopt.optimizer.pass_contract import Change, Numerics, Pass, Skip, option
class Kind(Enum):
    A = "a"
@dataclass(frozen=True)
class Mine(Pass):
    name = "mine"
    numerics = Numerics.EXACT
    count: Annotated[int, Field(ge=0)] = option(1, "a number")
    ratio: float = 0.5
    kind: Literal["a", "b c"] = "b c"
    also: Kind = Kind.A
    file: Path = Path("x")
    maybe: int | None = None
    on: bool = False
    def match(self, graph): yield from ()
    def rewrite(self, graph, site): return Skip("", "")
"""

FAULTS = {
    "no name": ('    name = "mine"\n', "", 10, "has no name"),
    "a name that is none": ('name = "mine"', "name = 3", 11, "has no name"),
    "a name with a space": ('name = "mine"', 'name = "my pass"', 11, "is named 'my pass'"),
    "no numerics": ("    numerics = Numerics.EXACT\n", "", 9, "does not define numerics"),
    "numerics as text": ("= Numerics.EXACT", '= "exact"', 12, "has numerics 'exact'"),
    "not a dataclass": ("@dataclass(frozen=True)\n", "", 9, "is no frozen dataclass"),
    "an unknown type": ("ratio: float", "ratio: 'Flaot'", 9, "NameError"),
    "a list": ("on: bool = False", "on: tuple[int, ...] = ()", 19, "cannot be read from"),
    "a callable": ("on: bool = False", "on: type[Pass] = Pass", 19, "cannot be read from"),
    "a wrong default": ("ratio: float = 0.5", "ratio: float = 'much'", 14, "'much' is no float"),
    "a default factory": (
        "on: bool = False",
        "on: bool = __import__('dataclasses').field(default_factory=bool)",
        19,
        "default_factory",
    ),
    "no match": ("    def match(self, graph): yield from ()\n", "", 9, "does not define match"),
    "match with too much": (
        "match(self, graph)",
        "match(self, graph, site)",
        20,
        "match cannot be",
    ),
    "rewrite without site": ("graph, site)", "graph)", 21, "rewrite cannot be called as"),
    "rewrite yields": ("return Skip", "yield Skip", 21, "is a generator"),
    "prepare alone": (
        "    on: bool",
        "    def prepare(self, graph, context): pass\n    on: bool",
        19,
        "derive it from PreparedPass",
    ),
    "a base of its own": (
        "class Mine(Pass):",
        "class Mine(Pass.__base__):",
        10,
        "derives from BasePass",
    ),
    "a method for a property": (
        "    on: bool",
        "    def needs_images(self): return False\n    on: bool",
        19,
        "neither True, False nor a property",
    ),
    "half a manual": (
        '    name = "mine"',
        '    """Does it.\n\n    Rewrite:\n        x\n\n    Why:\n        y\n    """\n'
        '    name = "mine"',
        10,
        "lacks the section Numerics:",
    ),
}


PREPARED = GOOD.replace("import Change,", "import Change, PreparedPass,")
PREPARED = PREPARED.replace("class Mine(Pass)", "class Mine(PreparedPass)")
PREPARED = PREPARED.replace(
    "    def match(self, graph): yield from ()\n",
    "    def prepare(self, graph, context): return 3\n"
    "    def match(self, graph, facts): yield from ()\n",
)
FAULTS_PREPARED = {
    "no prepare": (
        "    def prepare(self, graph, context): return 3\n",
        "",
        9,
        "does not define prepare",
    ),
    "prepare alone": ("(self, graph, context)", "(self)", 20, "prepare cannot be called as"),
    "match without facts": (
        "match(self, graph, facts)",
        "match(self, graph)",
        21,
        "match cannot be",
    ),
}


def broken_class(text: str, folder: Path) -> tuple[str, Passes]:
    file = folder / "mine.py"
    file.write_text(text)
    return str(file), find_passes([file])


def test_a_pass_that_keeps_the_contract(tmp_path: Path) -> None:
    _, found = broken_class(GOOD, tmp_path)
    assert found.broken == ()
    chosen: Any
    (chosen,) = parse_pipeline("mine{maybe=3, kind='a'}".replace("'", '"'), found)
    assert (chosen.maybe, str(chosen)) == (3, "mine{kind=a, maybe=3}")


@pytest.mark.parametrize(("old", "new", "line", "message"), FAULTS.values(), ids=FAULTS)
def test_the_contract_is_checked_when_a_pass_is_loaded(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    assert GOOD.count(old) == 1
    file, found = broken_class(GOOD.replace(old, new), tmp_path)
    (problem,) = found.broken
    assert message in problem.reason
    assert re.match(rf"{re.escape(file)}:({line}|{line - 1}): Mine", problem.reason), problem.reason
    assert "mine" not in found
    assert "canonicalize" in found
    with pytest.raises(InputError) as caught:
        lookup("mine", found)
    assert problem.reason in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "line", "message"), FAULTS_PREPARED.values(), ids=FAULTS_PREPARED
)
def test_the_contract_of_passes_that_prepare(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    assert broken_class(PREPARED, tmp_path)[1].broken == ()
    (tmp_path / "other").mkdir()
    assert PREPARED.count(old) == 1
    file, found = broken_class(PREPARED.replace(old, new), tmp_path / "other")
    (problem,) = found.broken
    assert message in problem.reason
    assert re.match(rf"{re.escape(file)}:({line}|{line - 1}): Mine", problem.reason), problem.reason


def test_one_broken_class_does_not_stop_the_other_of_its_file(tmp_path: Path) -> None:
    other = GOOD[GOOD.index("@dataclass") :].replace("Mine", "Other").replace('"mine"', '"other"')
    _, found = broken_class(GOOD.replace("= Numerics.EXACT", "= 3") + other, tmp_path)
    assert [problem.names for problem in found.broken] == [("mine",)]
    assert "other" in found


def test_abstract_bases_are_no_passes(tmp_path: Path) -> None:
    base = GOOD[GOOD.index("@dataclass") :].replace("Mine", "Base")
    base = base.replace("    numerics = Numerics.EXACT\n", "")
    text = GOOD[: GOOD.index("@dataclass")] + base
    text += "@dataclass(frozen=True)\nclass Mine(Base):\n    numerics = Numerics.EXACT\n"
    _, found = broken_class(text, tmp_path)
    assert found.broken == ()
    assert found["mine"].__name__ == "Mine"


def test_built_in_passes_keep_the_contract() -> None:
    for name, pass_type in find_passes().items():
        assert fault_of(pass_type) is None, name


def test_numerics_may_depend_on_options() -> None:
    known = find_passes()
    assert numerics_of(known["undilate-conv"]) == {
        "": Numerics.EXACT,
        "way=stacked": Numerics.APPROXIMATE,
        "way=block": Numerics.RETRAIN,
        "way=fastest": Numerics.RETRAIN,
    }
    assert numerics_of(known["prune-channels"]) == {
        "": Numerics.APPROXIMATE,
        "ratio=0": Numerics.EXACT,
    }
    assert numerics_of(known["pack-weights"])["values=float16"] is Numerics.APPROXIMATE
    assert numerics_of(known["replace-swish"])["gate=hardtanh"] is Numerics.RETRAIN
    assert numerics_of(known["stack-large-conv"])["activation=between"] is Numerics.RETRAIN
    assert numerics_of(known["canonicalize"]) == {"": Numerics.EXACT}


WORDS = {Numerics.EXACT: "exact", Numerics.APPROXIMATE: "approximate", Numerics.RETRAIN: "training"}


def test_lists_and_manual_pages_say_what_each_option_promises(every_pass: list[AnyPass]) -> None:
    listed = {entry["name"]: entry for entry in catalogue(find_passes().values())}
    for chosen in every_pass:
        entry, known = listed[chosen.name], numerics_of(type(chosen))
        given = [f"{f.name}={quoted(getattr(chosen, f.name))}" for f in fields(chosen)]
        (said,) = {known[text] for text in given if text in known} or {known[""]}
        assert said is chosen.numerics, str(chosen)
        assert {entry["numerics"], *entry["numerics_with"].values()} == {
            numerics.value for numerics in known.values()
        }
        page = " ".join(manual_of(type(chosen)).split("Numerics:")[1].split("Why:")[0].split())
        assert WORDS[said] in page.lower(), str(chosen)
    for name, pass_type in find_passes().items():
        page = " ".join(manual_of(pass_type).split())
        needs_training = Numerics.RETRAIN in numerics_of(pass_type).values()
        assert ("needs training" in page) == needs_training, name


def test_a_report_says_what_a_pass_promises(chain: gs.Graph, every_pass: list[AnyPass]) -> None:
    context = Context(device=load_device("adreno-640"))
    for chosen in every_pass:
        if not chosen.needs_images:
            (step,) = run_pipeline(chain, [chosen], context=context, verify="off").steps
            promised = chosen.numerics
            if "fastest" in str(chosen):  # nothing here is dilated: it took no way at all
                promised = Numerics.EXACT
            assert step.numerics is promised, str(chosen)


# --- running ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad(Pass[Any]):
    """Breaks the contract in one of many ways."""

    name = "bad"
    numerics = Numerics.APPROXIMATE
    how: str = option("", "")

    def match(self, graph: gs.Graph) -> Any:
        if self.how == "match gives None":
            return None
        if self.how == "match gives a node":
            return graph.nodes[0]
        if self.how == "match yields None":
            return iter([None])
        if self.how == "match crashes":
            raise KeyError("oops")
        if self.how == "a skip without text":
            return iter([Skip(cast(str, graph.nodes[0]), "why")])
        return (node for node in list(graph.nodes) if node.op == "Relu")

    def rewrite(self, graph: gs.Graph, site: gs.Node) -> Any:
        change = Change(site.outputs[0].name, "changed")
        match self.how:
            case "rewrite gives None":
                return None
            case "rewrite gives True":
                return True
            case "a change of nodes":
                return Change(cast(str, site), "changed")
            case "rewrite crashes":
                raise KeyError("oops")
            case "the producer goes":
                site.outputs.clear()
                graph.nodes.remove(site)
            case "another name":
                emit(graph, "Abs", site.inputs[0], out="other")
                graph.nodes.remove(site)
            case "two producers":
                again = emit(graph, "Abs", site.inputs[0], out="again")
                again.name = site.outputs[0].name
        return change


RUNS = {
    "match gives None": ("match gave None: it must yield sites", ""),
    "match gives a node": ("match gave a value of type Node", ""),
    "match yields None": ("match yielded None", ""),
    "match crashes": ("it crashed: KeyError: 'oops'", ""),
    "a skip without text": ("match gave a Skip of other things than texts", ""),
    "rewrite gives None": ("rewrite gave None: it must return a Change or a Skip", "make b"),
    "rewrite gives True": ("rewrite gave a value of type bool", "make b"),
    "a change of nodes": ("rewrite gave a Change of other things than texts", "make b"),
    "rewrite crashes": ("it crashed: KeyError: 'oops'", "make b"),
    "the producer goes": ("it broke the graph: make c reads b, which nothing makes", ""),
    "another name": ("it broke the graph: make c reads b, which nothing makes", ""),
    "two producers": ("it broke the graph: make b and again both make b", ""),
}


@pytest.fixture
def chain(network: MakeGraph, normal: Normal) -> gs.Graph:
    body = "a = Conv(x, w0) b = Relu(a) c = Conv(b, w1) d = Relu(c) y = Conv(d, w2)"
    weights = {f"w{i}": normal(4, 4, 1, 1) for i in range(3)}
    graph = network("float[1,4,8,8] x", "float[1,4,8,8] y", body, **weights)
    for node in graph.nodes:
        node.name = f"make {node.outputs[0].name}"
    return graph


@pytest.mark.parametrize("verify", ["each", "off"])
@pytest.mark.parametrize("how", RUNS)
def test_the_contract_is_checked_when_a_pass_runs(
    chain: gs.Graph, how: str, verify: VerifyMode
) -> None:
    message, node = RUNS[how]
    with pytest.raises(CheckFailed) as caught:
        run_pipeline(chain, [Bad(how)], verify=verify)
    said = caught.value.message
    assert message in said
    assert re.search(r"test_contract\.py:\d+", said)
    assert f", node {node})" in said if node else ", node" not in said
    assert caught.value.exit_code == 3
    # It is taken back, and the others go on.
    passes = [Bad(how), *parse_pipeline("canonicalize")]
    for on_fail in ("revert", "bisect", "warn"):
        first, second = run_pipeline(chain, passes, on_fail=on_fail, verify=verify).steps
        assert (first.reverted, second.failure) == (True, None)
        assert message in known(first.failure)


def test_the_line_of_a_crash_is_the_pass_s_own(chain: gs.Graph) -> None:
    with pytest.raises(CheckFailed, match=r"test_contract.py:(\d+), node make b") as caught:
        run_pipeline(chain, [Bad("rewrite crashes")])
    line = int(known(re.search(r"py:(\d+)", caught.value.message))[1])
    text = Path(__file__).read_text().splitlines()[line - 1]
    assert text.strip() == 'raise KeyError("oops")'


@dataclass(frozen=True)
class Forever(Pass[gs.Node]):
    """Finds something to do each time."""

    name = "forever"
    numerics = Numerics.EXACT
    repeat = True

    def match(self, graph: gs.Graph) -> Iterator[gs.Node | Skip]:
        yield graph.nodes[0]

    def rewrite(self, graph: gs.Graph, site: gs.Node) -> Change | Skip:
        return Change("x", "again")


def test_a_pass_that_never_ends(chain: gs.Graph) -> None:
    with pytest.raises(CheckFailed, match="still changes the graph after 1000 sweeps"):
        run_pipeline(chain, [Forever()])


@dataclass(frozen=True)
class Scaling:
    """Factors by the name of a convolution's output."""

    factors: Mapping[str, float]


@dataclass(frozen=True)
class Scaled(PreparedPass[tuple[gs.Node, float], Scaling]):
    """Multiplies weights by what it was told when it was prepared."""

    name: ClassVar[str] = "scaled"
    numerics: ClassVar[Numerics] = Numerics.APPROXIMATE
    prepared: ClassVar[list[list[str]]] = []
    last: float = 1.0

    def prepare(self, graph: gs.Graph, context: Context) -> Scaling:
        names = [node.outputs[0].name for node in graph.nodes if node.op == "Conv"]
        self.prepared.append(names)
        return Scaling(dict(zip(names, (1.0, 1.0, self.last), strict=True)))

    def match(self, graph: gs.Graph, facts: Scaling) -> Iterator[tuple[gs.Node, float] | Skip]:
        for node in list(graph.nodes):
            if node.op == "Conv":
                yield node, facts.factors[node.outputs[0].name]

    def rewrite(self, graph: gs.Graph, site: tuple[gs.Node, float]) -> Change:
        node, factor = site
        weight = constant_in(node.inputs[1])
        weight.values = np.asarray(weight.values * factor, np.float32)
        return Change(label(node), f"times {factor:g}")

    def numerics_given(self, facts: Scaling) -> Numerics:
        return Numerics.EXACT if set(facts.factors.values()) <= {1.0, 1.5} else self.numerics


def test_match_is_given_what_was_prepared(chain: gs.Graph) -> None:
    Scaled.prepared.clear()
    (step,) = run_pipeline(chain, [Scaled(last=2.0)]).steps
    assert [change.summary for change in step.changes] == ["times 1", "times 1", "times 2"]
    assert step.numerics is Numerics.APPROXIMATE
    (step,) = run_pipeline(chain, [Scaled()]).steps
    assert step.numerics is Numerics.EXACT
    # Halves of its changes are tried with the same facts.
    (step,) = run_pipeline(chain, [Scaled(last=1.5)], on_fail="bisect").steps
    assert [change.node for change in step.changes] == ["make a", "make c"]
    assert step.skips[0].node == "make y"
    assert Scaled.prepared == [["a", "c", "y"]] * 3


@pytest.mark.parametrize("verify", ["each", "end"])
def test_a_check_holds_a_pass_to_what_it_promises_once_prepared(
    chain: gs.Graph, verify: VerifyMode
) -> None:
    with pytest.raises(CheckFailed, match="an exact pass moved outputs"):
        run_pipeline(chain, [Scaled(last=1.5)], verify=verify)


def test_bodies_see_the_tensors_around_them(network: MakeGraph) -> None:
    graph = network(
        "float[2] x, bool c",
        "float[2] y",
        """a = Neg(x) y = If(c) <then_branch = t () => (float[2] p) { p = Abs(a) },
           else_branch = e () => (float[2] q) { q = Relu(a) }>""",
    )
    assert flaw_of(graph) is None
    graph.nodes.pop(0)
    assert flaw_of(graph) == "p reads a, which nothing makes"
