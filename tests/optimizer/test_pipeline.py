"""Pipelines as text, the registry, and verification that names the culprit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known import known, values_of
from pydantic import Field
from small_networks import MakeGraph, MakeProto, Normal

from graphopt import passes as builtin
from graphopt.analysis.latency.device import load_device
from graphopt.errors import CheckFailed, InputError
from graphopt.ir.edit import constant, emit
from graphopt.ir.graph import is_standard, label
from graphopt.ir.onnx_io import load_model, to_proto
from graphopt.optimizer.manual import manual_of
from graphopt.optimizer.options import OnFail, VerifyMode
from graphopt.optimizer.pass_contract import (
    AnyPass,
    Change,
    Context,
    Numerics,
    Pass,
    PreparedPass,
    Skip,
    option,
)
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.registry import find_passes
from graphopt.optimizer.syntax import PRESETS, format_pipeline, parse_pipeline
from graphopt.optimizer.verify import Verifier
from graphopt.passes.replace_swish import ReplaceSwish
from graphopt.runtime.differences import Agreement, agreement, difference
from graphopt.runtime.sample_inputs import example_shapes, sample_feeds
from graphopt.runtime.synthetic_images import natural_noise


@dataclass(frozen=True)
class Typed(Pass[gs.Node]):
    """A pass with an option of every type."""

    name = "typed"
    numerics = Numerics.EXACT
    count: int = option(1, "a number")
    ratio: Annotated[float, Field(gt=0)] = option(0.5, "")
    on: bool = option(False, "")
    kind: Literal["a", "b c"] = option("a", "")
    text: str = option("", "")
    file: Path = option(Path("x"), "")

    def match(self, graph: gs.Graph) -> Iterator[gs.Node | Skip]:
        yield from ()

    def rewrite(self, graph: gs.Graph, site: gs.Node) -> Change | Skip:
        raise AssertionError


KNOWN: dict[str, type[AnyPass]] = {"typed": Typed, **find_passes()}


@given(
    st.builds(
        Typed,
        count=st.integers(),
        ratio=st.floats(min_value=1e-9, allow_infinity=False),
        on=st.booleans(),
        kind=st.sampled_from(["a", "b c"]),
        text=st.text(st.characters(categories=("L", "N", "P", "Zs"), exclude_characters='"')),
        file=st.sampled_from([Path("x"), Path("/a/b, c"), Path("{}")]),
    )
)
def test_pipelines_round_trip(chosen: Typed) -> None:
    text = format_pipeline([chosen, chosen])
    assert parse_pipeline(text, KNOWN) == [chosen, chosen]


def test_reading_pipelines() -> None:
    first, second = parse_pipeline(' typed { count=3 kind="b c",on=true } ,replace-swish ', KNOWN)
    assert first == Typed(count=3, kind="b c", on=True)
    assert isinstance(second, ReplaceSwish)
    assert second.gate == "hard"
    assert parse_pipeline("", KNOWN) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fold-batchnrom", "did you mean fold-batchnorm"),
        ("typed{cuont=1}", "did you mean count"),
        ("typed{count=one}", "cannot be 'one'"),
        ("typed{ratio=-1}", "greater than 0"),
        ("typed{kind=c}", "it takes a | b c"),
        ("typed{count}", "cannot be read"),
        ("typed{count=1", "cannot be read from"),
        ("typed canonicalize", "cannot be read from"),
        ("typed; canonicalize", "cannot be read from"),
        ("zzz", "graphopt passes list"),
    ],
)
def test_bad_pipelines(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_pipeline(text, KNOWN)
    assert message in str(caught.value)


def test_presets_parse_and_builtin_passes_are_what_they_say() -> None:
    for text in PRESETS.values():
        assert format_pipeline(parse_pipeline(text)) == text
    files = {p.stem.replace("_", "-") for p in Path(builtin.__path__[0]).glob("*.py")} - {
        "--init--"
    }
    found = {n for n, p in find_passes().items() if p.__module__.startswith("graphopt.passes.")}
    assert found == files
    for name in found:
        manual = manual_of(KNOWN[name])
        for section in ("Rewrite:", "Numerics:", "Why:", "When it skips:"):
            assert section in manual, name


# --- loading ------------------------------------------------------------------------------------

PASS = """
from dataclasses import dataclass, replace
from graphopt.optimizer.pass_contract import Numerics, Pass
@dataclass(frozen=True)
class Mine(Pass):
    name = "{}"
    numerics = Numerics.EXACT
    def match(self, graph): yield from ()
    def rewrite(self, graph, site): pass
"""


def test_loading_files(tmp_path: Path) -> None:
    for folder, name in (("a", "one"), ("b", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(PASS.format(name))
    files = [tmp_path / "a" / "same.py", tmp_path / "b" / "same.py", tmp_path / "a" / "same.py"]
    assert {"one", "two", "canonicalize"} <= set(find_passes(files))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1", "defines no pass"),
        ("import nothing_of_that_name", r"cannot be imported: \S+mine.py:1: ModuleNotFoundError"),
        (
            "from graphopt.passbase import Pass",
            r"mine.py:1: ModuleNotFoundError: .* it is graphopt.optimizer.pass_contract now",
        ),
        ("\ndef", r"cannot be imported: \S+mine.py:2: SyntaxError"),
        ("import sys\nsys.exit(3)", r"cannot be imported: \S+mine.py:2: SystemExit: 3"),
        (
            PASS.format("mine")
            .replace("    def match", "    a = option(1, '')\n    def match", 1)
            .replace("Pass\n", "Pass, option\n", 1),
            r"cannot be imported: \S+mine.py:4: TypeError: 'a' is a field but has no type",
        ),
        ("def f():\n    1 / 0\nf()", r"cannot be imported: \S+mine.py:2: ZeroDivisionError"),
    ],
)
def test_files_that_cannot_be_loaded_stop_only_themselves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str, message: str
) -> None:
    broken, whole = tmp_path / "mine.py", tmp_path / "whole.py"
    broken.write_text(content)
    whole.write_text(PASS.format("whole"))
    for _ in range(2):
        known = find_passes([broken, whole])
        (problem,) = known.broken
        assert problem.origin == str(broken)
        assert re.search(message, problem.reason)
        assert "whole" in known
    assert [record.getMessage() for record in caplog.records] == [f"graphopt: {problem}"]
    with pytest.raises(InputError, match="there is no pass 'mine', unless in what is broken") as c:
        parse_pipeline("mine", known)
    assert re.search(message, c.value.message)


def test_files_that_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PASS.format("canonicalize"))
    with pytest.raises(InputError, match="two passes are named canonicalize"):
        find_passes([file])
    for name in ("none.py", "mine.txt"):
        with pytest.raises(InputError, match="no Python file"):
            find_passes([tmp_path / name])


# --- running ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale(Pass[gs.Node]):
    """Multiplies the weights of a convolution: a pass that lies about being exact."""

    name = "scale"
    numerics = Numerics.EXACT
    node: str = option("", "the convolution")
    by: float = option(1.01, "the factor")

    def match(self, graph: gs.Graph) -> Iterator[gs.Node | Skip]:
        for node in list(graph.nodes):
            if is_standard(node, "Conv") and label(node) == self.node:
                yield node
            elif is_standard(node, "Conv"):
                yield Skip(label(node), "not asked for")

    def rewrite(self, graph: gs.Graph, site: gs.Node) -> Change | Skip:
        scaled = (values_of(site.inputs[1]) * self.by).astype(np.float32)
        site.inputs[1] = constant(graph, f"{site.outputs[0].name}.w", scaled)
        return Change(label(site), "scaled")


class Approximate(Scale):
    numerics = Numerics.APPROXIMATE


class Crash(Scale):
    name = "crash"

    def rewrite(self, graph: gs.Graph, site: gs.Node) -> Change | Skip:
        site.inputs.clear()
        raise KeyError("oops")


class Rename(Scale):
    name = "rename"

    def rewrite(self, graph: gs.Graph, site: gs.Node) -> Change | Skip:
        graph.outputs[0].name = "other"
        return Change(label(site), "renamed")


@pytest.fixture
def chain(network: MakeGraph, normal: Normal) -> gs.Graph:
    body = "a = Conv(x, w0) b = Relu(a) c = Conv(b, w1) d = Relu(c) y = Conv(d, w2)"
    weights = {f"w{i}": normal(4, 4, 1, 1) for i in range(3)}
    graph = network("float[N,4,H,W] x", "float[N,4,H,W] y", body, **weights)
    for node in graph.nodes:
        node.name = f"make {node.outputs[0].name}"
    return graph


@pytest.mark.parametrize("verify", ["each", "end"])
def test_blame_names_the_pass_and_the_first_tensor(chain: gs.Graph, verify: VerifyMode) -> None:
    passes = [*parse_pipeline("canonicalize"), Scale("make c"), *parse_pipeline("canonicalize")]
    with pytest.raises(CheckFailed) as caught:
        run_pipeline(chain, passes, verify=verify)
    assert caught.value.pass_name == 'scale{node="make c"}'
    assert "the first tensor that departs is c " in caught.value.message
    assert caught.value.exit_code == 3


def test_a_failed_check_at_the_end_fits_nothing_again(chain: gs.Graph) -> None:
    fitted = []

    @dataclass(frozen=True)
    class Fit(PreparedPass[tuple[Scale, gs.Node], Scale]):
        name = "fit"
        numerics = Scale.numerics
        node: str
        by: float = 1.0

        def prepare(self, graph: gs.Graph, context: Context) -> Scale:
            fitted.append(self.node)
            return Scale(self.node, self.by)

        def match(self, graph: gs.Graph, facts: Scale) -> Iterator[tuple[Scale, gs.Node] | Skip]:
            return ((facts, found) for found in facts.match(graph) if not isinstance(found, Skip))

        def rewrite(self, graph: gs.Graph, site: tuple[Scale, gs.Node]) -> Change | Skip:
            facts, node = site
            return facts.rewrite(graph, node)

    nothing_to_do = parse_pipeline("canonicalize")
    passes = [Fit("make a", by=1.0), *nothing_to_do, Fit("make c", by=1.0)]
    passes += [Scale("make y"), Fit("make a", by=1.0), *nothing_to_do]
    each = run_pipeline(chain, passes, on_fail="revert")
    assert fitted == ["make a", "make c", "make a"]
    fitted.clear()
    end = run_pipeline(chain, passes, verify="end", on_fail="revert")
    # Only what follows the pass that was taken back is given another network.
    assert fitted == ["make a", "make c", "make a", "make a"]
    assert to_proto(end.graph) == to_proto(each.graph)
    one, other = ([replace(step, seconds=0) for step in r.steps] for r in (each, end))
    assert one == other


def test_a_failed_pass_is_reverted(chain: gs.Graph) -> None:
    passes = [Scale("make c"), Approximate("make y", by=2.0)]
    result = run_pipeline(chain, passes, on_fail="revert")
    assert [step.reverted for step in result.steps] == [True, False]
    assert result.steps[0].changes == ()
    assert result.steps[0].failure
    assert np.allclose(
        values_of(result.graph.nodes[2].inputs[1]), values_of(chain.nodes[2].inputs[1])
    )
    assert result.steps[1].max_abs_diff == pytest.approx(1.0, abs=0.6)


def test_a_failed_pass_is_kept_with_a_warning(chain: gs.Graph) -> None:
    result = run_pipeline(chain, [Scale("make c")], on_fail="warn")
    (step,) = result.steps
    assert not step.reverted
    assert step.failure
    assert step.max_abs_diff == pytest.approx(0.01, abs=0.01)
    assert len(step.skips) == 2


def test_exact_passes_after_an_approximate_one_are_judged_from_there(chain: gs.Graph) -> None:
    passes = [Approximate("make c", by=1.5), *parse_pipeline("canonicalize")]
    steps = run_pipeline(chain, passes).steps
    assert steps[1].failure is None
    assert steps[1].max_abs_diff == known(steps[0].max_abs_diff) > 1e-2
    with pytest.raises(CheckFailed, match="departs is y "):
        run_pipeline(chain, [*passes, Scale("make y")])


@pytest.mark.parametrize("on_fail", ["revert", "warn"])
@pytest.mark.parametrize("verify", ["each", "end", "off"])
def test_a_crashing_pass_is_always_taken_back(
    chain: gs.Graph, on_fail: OnFail, verify: VerifyMode
) -> None:
    result = run_pipeline(chain, [Crash("make c")], verify=verify, on_fail=on_fail)
    assert result.steps[0].reverted
    assert "it crashed: KeyError: 'oops'" in known(result.steps[0].failure)
    assert len(result.graph.nodes[2].inputs) == 2


# --- bisecting ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScaleAll(Scale):
    """Scales every convolution; some of them only claim that they keep what they compute."""

    name = "scale-all"
    bad: frozenset[str] = frozenset()

    def match(self, graph: gs.Graph) -> Iterator[gs.Node | Skip]:
        yield from [node for node in graph.nodes if node.op == "Conv"]

    def rewrite(self, graph: gs.Graph, site: gs.Node) -> Change | Skip:
        by = self.by if label(site) in self.bad else 1.0
        scaled = (values_of(site.inputs[1]) * by).astype(np.float32)
        site.inputs[1] = constant(graph, f"{site.outputs[0].name}.w", scaled)
        return Change(label(site), "scaled")


@pytest.fixture
def long_chain(network: MakeGraph, normal: Normal) -> gs.Graph:
    body = " ".join(f"t{i + 1} = Conv(t{i}, w{i})" for i in range(9))
    weights = {f"w{i}": normal(4, 4, 1, 1) for i in range(9)}
    return network("float[1,4,8,8] t0", "float[1,4,8,8] t9", body, **weights)


@pytest.mark.parametrize("bad", [{"t1"}, {"t9"}, {"t5"}, {"t2", "t3"}, {"t1", "t5", "t9"}])
def test_only_the_changes_to_blame_are_taken_back(long_chain: gs.Graph, bad: set[str]) -> None:
    chosen = ScaleAll(bad=frozenset(bad))
    (step,) = run_pipeline(long_chain, [chosen], on_fail="bisect").steps
    assert (step.failure, step.reverted) == (None, False)
    assert {change.node for change in step.changes} == {f"t{i}" for i in range(1, 10)} - bad
    assert {skip.node for skip in step.skips} == bad
    assert all("taken back: an exact pass moved outputs" in skip.reason for skip in step.skips)
    assert known(step.max_abs_diff) < 1e-6


def test_bisecting_a_pass_that_is_all_wrong_takes_it_back(long_chain: gs.Graph) -> None:
    bad = frozenset(f"t{i}" for i in range(1, 10))
    result = run_pipeline(long_chain, [ScaleAll(bad=bad)], on_fail="bisect")
    assert result.steps[0].reverted
    assert result.steps[0].failure
    assert np.array_equal(
        values_of(result.graph.nodes[3].inputs[1]), values_of(long_chain.nodes[3].inputs[1])
    )


# --- what must pay ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Twice(Pass[gs.Node]):
    """Computes the last convolution twice: slower, and nothing else."""

    name = "twice"
    numerics = Numerics.EXACT

    def match(self, graph: gs.Graph) -> Iterator[gs.Node | Skip]:
        yield graph.nodes[-1]

    def rewrite(self, graph: gs.Graph, site: gs.Node) -> Change | Skip:
        again = emit(graph, "Conv", *site.inputs, out="again")
        both = emit(graph, "Max", site.outputs[0], again, out="both")
        graph.outputs[0] = both
        both.name, site.outputs[0].name = site.outputs[0].name, "once"
        both.shape, both.dtype = [1, 4, 8, 8], np.float32
        return Change(label(site), "computed twice")


def test_passes_that_must_pay_are_left_out_where_they_do_not(long_chain: gs.Graph) -> None:
    context = Context(device=load_device("adreno-640"))
    result = run_pipeline(long_chain, [Twice()], context=context, must_pay=1)
    (step,) = result.steps
    assert step.changes == ()
    assert "it would be slower on adreno-640" in step.skips[-1].reason
    assert result.ms_after == result.ms_before
    free = run_pipeline(long_chain, [Twice()], context=context)
    assert known(free.ms_after) > known(free.ms_before)


def test_accuracy_is_not_given_up_for_nothing(long_chain: gs.Graph) -> None:
    context = Context(device=load_device("adreno-640"))
    lossy = Approximate("t3", by=1.1)
    (step,) = run_pipeline(long_chain, [lossy], context=context, must_pay=1).steps
    assert step.changes == ()
    assert "it costs accuracy and would save no time" in step.skips[-1].reason
    assert step.max_abs_diff is None


def test_outputs_must_keep_their_names(chain: gs.Graph) -> None:
    with pytest.raises(CheckFailed, match="the outputs changed"):
        run_pipeline(chain, [Rename("make c")])


def test_the_given_graph_is_not_changed(chain: gs.Graph) -> None:
    before = values_of(chain.nodes[2].inputs[1]).copy()
    run_pipeline(chain, [Approximate("make c", by=2.0)], verify="off")
    assert chain.nodes[2].inputs[1].name == "w1"
    assert np.array_equal(values_of(chain.nodes[2].inputs[1]), before)


def test_declared_shapes_that_never_fitted_are_no_pass_s_fault(
    proto: MakeProto, tmp_path: Path
) -> None:
    model = proto("float[1,3,8,8] x", "float[1,3,8,8] y", "a = Identity(x) y = Relu(a)")
    wrong = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1, 3, 9, 9])
    model.graph.value_info.append(wrong)
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 9
    onnx.save(model, tmp_path / "m.onnx")
    (step,) = run_pipeline(load_model(tmp_path / "m.onnx"), parse_pipeline("canonicalize")).steps
    assert (step.failure, len(step.changes)) == (None, 1)


def test_contrib_operators_pass_the_checks(network: MakeGraph) -> None:
    graph = network("float[1,3,8,8] x", "float[1,3,8,8] y", "y = com.microsoft.QuickGelu(x)")
    first, *_ = run_pipeline(graph, parse_pipeline("canonicalize, replace-swish")).steps
    assert first.max_abs_diff == 0


# --- measuring ----------------------------------------------------------------------------------


def test_difference_is_relative_to_the_range() -> None:
    reference = np.array([0.0, 5.0, 10.0])
    assert difference(reference + 0.1, reference) == pytest.approx(0.01)
    assert difference(reference[:2], reference) == float("inf")
    nan = np.array([np.nan, 1.0])
    assert difference(nan, nan) == 0
    assert difference(np.array([0.0, 1.0]), nan) == float("inf")
    assert difference(nan, np.array([0.0, 1.0])) == float("inf")
    assert difference(np.array([4.0, 4.0]), np.array([4.0, 5.0])) == 1
    assert difference(np.array([3.0]), np.array([4.0])) == 0.25
    assert difference(np.zeros(0), np.zeros(0)) == 0


@pytest.mark.parametrize("verify", ["each", "end"])
@pytest.mark.parametrize("by", [3.6, 1e6])
def test_what_moves_outputs_by_more_than_their_range_is_no_approximation(
    chain: gs.Graph, by: float, verify: VerifyMode
) -> None:
    chosen = Approximate("make y", by=by)
    with pytest.raises(CheckFailed, match="an approximate pass moved outputs by") as caught:
        run_pipeline(chain, [chosen], verify=verify)
    assert "times their range" in caught.value.message
    assert "--on-fail warn" in known(caught.value.hint)
    (step,) = run_pipeline(chain, [chosen], verify=verify, on_fail="revert").steps
    assert step.reverted
    kept = run_pipeline(chain, [chosen], verify=verify, on_fail="warn")
    assert not kept.steps[0].reverted
    assert kept.kept_failures == (f"{chosen}: {kept.steps[0].failure}",)


def test_what_needs_training_may_move_outputs_and_says_so(chain: gs.Graph) -> None:
    class Retrain(Scale):
        numerics = Numerics.RETRAIN

    result = run_pipeline(chain, [Retrain("make y", by=3.6)])
    assert result.steps[0].failure is None
    assert "needs training" in result.remarks[0]
    assert run_pipeline(chain, [Retrain("none", by=3.6)]).remarks == ()


def test_a_preset_leaves_out_what_moves_outputs_too_far(chain: gs.Graph) -> None:
    passes = [Approximate("make y", by=3.6), *parse_pipeline("canonicalize")]
    first, second = run_pipeline(chain, passes, must_pay=1).steps
    assert (first.reverted, first.changes) == (True, ())
    assert "times their range" in known(first.failure)
    assert second.max_abs_diff == 0


class Infinite(Scale):
    numerics = Numerics.APPROXIMATE


@pytest.mark.parametrize("by", [np.inf, np.nan])
def test_nobody_can_want_what_is_not_finite(chain: gs.Graph, by: float) -> None:
    (step,) = run_pipeline(chain, [Infinite("make y", by=by)], on_fail="warn").steps
    assert step.reverted
    assert "not finite" in known(step.failure)


# --- onnxruntime's own noise --------------------------------------------------------------------


@pytest.fixture
def amplifying(network: MakeGraph, normal: Normal) -> Callable[[float], gs.Graph]:
    """amplifying(10000) -> a network that makes that much more of rounding."""

    def make(by: float) -> gs.Graph:
        return network(
            "float[1,3,32,32] x",
            "float[1,8,32,32] y",
            "a = Conv(x, w) b = BatchNormalization(a, s, t, m, v) c = Mul(b, k) y = Sin(c)",
            w=normal(8, 3, 1, 1) / 200,
            s=np.abs(normal(8)) + np.float32(0.5),
            t=normal(8),
            m=normal(8),
            v=np.abs(normal(8)) + np.float32(0.5),
            k=np.float32(by),
        )

    return make


def test_rounding_that_a_network_amplifies_is_no_fault(
    amplifying: Callable[[float], gs.Graph],
) -> None:
    result = run_pipeline(amplifying(5000), parse_pipeline("fold-batchnorm"))
    (step,) = result.steps
    assert step.failure is None
    assert step.changes
    assert 1e-4 < known(step.max_abs_diff) < 1e-2
    assert re.search(r"within onnxruntime's own noise of \d\.\de-0[34]", result.remarks[0])
    calm = run_pipeline(amplifying(1), parse_pipeline("fold-batchnorm"))
    assert known(calm.steps[0].max_abs_diff) < 1e-4
    assert calm.remarks == ()


def test_a_network_without_an_answer_is_called_one(amplifying: Callable[[float], gs.Graph]) -> None:
    graph = amplifying(1e7)
    with pytest.raises(CheckFailed, match="this network has no answer to compare with"):
        run_pipeline(graph, parse_pipeline("fold-batchnorm"))
    kept = run_pipeline(graph, parse_pipeline("fold-batchnorm"), on_fail="warn")
    assert "onnxruntime itself differs by" in kept.kept_failures[0]


def test_noise_does_not_excuse_an_error(amplifying: Callable[[float], gs.Graph]) -> None:
    graph = amplifying(5000)
    node = next(label(n) for n in graph.nodes if n.op == "Conv")
    with pytest.raises(CheckFailed, match="own noise is"):
        run_pipeline(graph, [Scale(node, by=1.001)])


def test_what_agreement_excuses() -> None:
    rng = np.random.default_rng(0)
    reference = {"y": rng.integers(0, 64, (1, 8, 64, 64)).astype(np.float32)}

    def flipped(places: int, by: float = 1.0) -> dict[str, np.ndarray]:
        values = reference["y"].copy()
        values.reshape(-1)[rng.choice(values.size, places, replace=False)] += by
        return {"y": values}

    def judged(values: dict[str, np.ndarray], noise: dict[str, np.ndarray]) -> Agreement:
        return agreement([values], [reference], lambda _: 1e-4, lambda: [[noise]])

    def never() -> Any:
        raise AssertionError

    assert agreement([reference], [reference], lambda _: 1e-4, never) == Agreement(0.0)
    fine = judged(flipped(20), flipped(30))
    assert fine.excess is None
    assert fine.noise == pytest.approx(1 / 63)
    assert "within onnxruntime's own noise of 1.6e-02" in fine.within
    refused = {
        "no noise": judged(flipped(20), reference),
        "larger than noise": judged(flipped(20, by=3.0), flipped(20)),
        "everything shifted": judged(flipped(8 * 64 * 64), flipped(20)),
        "no number": judged(flipped(1, by=np.nan), flipped(20)),
        "infinite": judged(flipped(1, by=np.inf), flipped(20)),
        "noise without bounds": judged(flipped(20, by=7.0), flipped(20, by=7.0)),
        "noise that is no number": judged(flipped(20), flipped(1, by=np.nan)),
    }
    for why, found in refused.items():
        assert found.excess is not None, why
        assert found.within == "", why

    # An input without an answer is left out where another has one, and the other counts.
    wild = flipped(8 * 64 * 64, by=30.0)
    found = agreement(
        [wild, reference], [reference] * 2, lambda _: 1e-4, lambda: [[wild, reference]]
    )
    assert (found.excess, found.difference, found.unanswered) == (None, 0.0, 1)
    assert "but for 1 of the inputs" in found.within
    found = agreement(
        [wild, flipped(20)], [reference] * 2, lambda _: 1e-4, lambda: [[wild, reference]]
    )
    assert "own noise is 0" in known(found.excess)


def test_images_have_the_statistics_of_natural_ones() -> None:
    image = natural_noise((64, 128, 128), np.random.default_rng(0))
    assert image.mean() == pytest.approx(0, abs=1e-9)
    assert image.std() == pytest.approx(1)
    power = (np.abs(np.fft.fft2(image)) ** 2).mean(axis=0)
    low, high = power[4, 0] + power[0, 4], power[32, 0] + power[0, 32]
    assert low / high == pytest.approx(64, rel=0.5)  # amplitude 1/f: power falls by 8 squared


def test_dynamic_sizes_are_the_first_that_run(network: MakeGraph, normal: Normal) -> None:
    """A network that joins a map of half the size and its double: the width must be even."""
    graph = network(
        "float[N,3,H,W] x, float[N,2] z",
        "float[N,3,H,W] y",
        """p = MaxPool<kernel_shape=[128,2], strides=[128,2]>(x) u = Resize(p, roi, s)
           a = Add(x, u) k = ReduceSum<keepdims=0>(z) y = Add(a, k)""",
        roi=np.zeros(0, np.float32),
        s=np.array([1, 1, 128, 2], np.float32),
    )
    assert example_shapes(graph) == {"x": (1, 3, 128, 192), "z": (1, 2)}


def test_a_network_that_runs_at_no_usual_size(network: MakeGraph, normal: Normal) -> None:
    graph = network(
        "float[N,3,H,W] x", "float[N,3,A,B] y", "y = Add(x, k)", k=normal(1, 3, 777, 777)
    )
    with pytest.raises(InputError, match="--input-shape"):
        run_pipeline(graph, [])
    assert run_pipeline(graph, [], verify="off").input_shapes == {}


@pytest.mark.assets
@pytest.mark.parametrize("preset", ["exact"])
@pytest.mark.parametrize("name", ["lwop", "tfpose", "efficientpose"])
def test_presets_on_trained_models(request: pytest.FixtureRequest, name: str, preset: str) -> None:
    graph = load_model(request.getfixturevalue(name))
    result = run_pipeline(graph, parse_pipeline(PRESETS[preset]))
    assert all(step.failure is None for step in result.steps)
    assert known(result.steps[-1].max_abs_diff) < 1e-4
    kept = {node.op for node in result.graph.nodes}
    assert "BatchNormalization" not in kept
    if name == "tfpose":
        folded = next(step for step in result.steps if step.name == "fold-batchnorm")
        assert len(folded.changes) == 99
    # An independent look, with onnxruntime's own optimizations on.
    from graphopt.ir.onnx_io import to_proto
    from graphopt.runtime.engine import OnnxRuntimeEngine
    from graphopt.runtime.sample_inputs import sample_feeds

    for feed in sample_feeds(graph, result.input_shapes):
        a, b = (
            OnnxRuntimeEngine(to_proto(g).SerializeToString()).run(feed)
            for g in (result.graph, graph)
        )
        assert all(difference(a[key], b[key]) < 1e-4 for key in b)


def test_integer_and_scalar_inputs_are_fed(network: MakeGraph) -> None:
    graph = network(
        "float[1,3,8,8] x, int64 i, bool c, float s",
        "float[1,3,8,8] y",
        "f = Cast<to=1>(i) g = Cast<to=1>(c) h = Sum(f, g, s) y = Add(x, h)",
    )
    assert Verifier(graph, example_shapes(graph)).check(graph, Numerics.EXACT).difference == 0


HALVES = {
    "half": ("float16[1,3,16,24] x", "float16[1,8,16,24] y", "{net}(x, y)"),
    "float at both ends": (
        "float[1,3,16,24] x",
        "float[1,8,16,24] y",
        "h = Cast<to=10>(x) {net}(h, z) y = Cast<to=1>(z)",
    ),
    "float in between": (
        "float16[1,3,16,24] x",
        "float16[1,8,16,24] y",
        "f = Cast<to=1>(x) s = Mul(f, k) h = Cast<to=10>(s) {net}(h, y)",
    ),
}


@pytest.mark.parametrize("statistics", ["float16", "float32"])
@pytest.mark.parametrize("opset", [13, 15, 21])
@pytest.mark.parametrize(("inputs", "outputs", "body"), HALVES.values(), ids=HALVES)
def test_half_precision_through_the_exact_preset(
    network: MakeGraph,
    normal: Normal,
    inputs: str,
    outputs: str,
    body: str,
    opset: int,
    statistics: str,
) -> None:
    """What is computed in half precision, even if it leaves as float, is judged as such."""
    if opset < 15 and statistics == "float32":
        pytest.skip("BatchNormalization has one type before opset 15")
    source, end = ("h", "z" if "z)" in body else "y") if "(h," in body else ("x", "y")
    net = f"a = Conv<pads=[1,1,1,1]>({source}, w) b = BatchNormalization(a, g, o, m, v) "
    net += f"{end} = Relu(b)"
    graph = network(
        inputs,
        outputs,
        body.replace(f"{{net}}({source}, {end})", net),
        opset=opset,
        w=normal(8, 3, 3, 3).astype(np.float16) / np.float16(9),
        k=np.float32(1 / 64),
        **{name: (normal(8) / 4).astype(statistics) for name in "gom"},
        v=(1 + normal(8) ** 2).astype(statistics),
    )
    result = run_pipeline(graph, parse_pipeline(PRESETS["exact"]), verify="each")
    assert "BatchNormalization" not in [node.op for node in result.graph.nodes]
    assert {t.name: t.dtype for t in result.graph.outputs} == {
        t.name: t.dtype for t in graph.outputs
    }


def test_float_that_a_half_precision_branch_does_not_touch_is_held_to_the_strict_limit(
    network: MakeGraph,
) -> None:
    graph = network(
        "float[1,3,16,24] x",
        "float[1,3,16,24] y, float[1,3,16,24] z",
        "h = Cast<to=10>(x) n = Neg(h) y = Cast<to=1>(n) z = Neg(x)",
    )
    judge = Verifier(graph, example_shapes(graph))
    for name, passes in (("y", True), ("z", False)):
        changed = graph.copy()
        node = next(n for n in changed.nodes if n.outputs[0].name == name)
        source = node.inputs[0]
        node.inputs[0] = emit(changed, "Mul", source, 1.001, out="slightly")
        node.inputs[0].shape = source.shape
        changed.toposort()
        assert (judge.check(changed, Numerics.EXACT).failure is None) == passes


PICTURES = {
    "channels last": ("float[1,24,32,3]", np.float32),
    "channels last, any size": ("float[N,H,W,3]", np.float32),
    "bytes": ("uint8[1,3,24,32]", np.uint8),
    "bytes, channels last": ("uint8[1,24,32,3]", np.uint8),
    "signed bytes": ("int8[1,24,32,3]", np.int8),
    "whole numbers": ("int32[1,24,32,3]", np.int32),
}


@pytest.mark.parametrize(("given", "dtype"), PICTURES.values(), ids=PICTURES)
def test_pictures_are_fed_as_such(
    network: MakeGraph, normal: Normal, given: str, dtype: type[np.generic]
) -> None:
    """Neighbouring pixels are alike, in any layout and type, and whole numbers use their range."""
    last = given.endswith("3]")
    turn = "t = Transpose<perm=[0,3,1,2]>(f)" if last else "t = Identity(f)"
    graph = network(
        f"{given} x",
        "float[N,4,P,Q] y",
        f"f = Cast<to=1>(x) {turn} y = Conv(t, w)",
        w=normal(4, 3, 3, 3),
    )
    shapes = example_shapes(graph)
    assert shapes["x"][3 if last else 1] == 3
    for feeds in sample_feeds(graph, shapes):
        picture = feeds["x"].astype(float)
        assert feeds["x"].dtype == dtype
        image = picture[0] if last else picture[0].transpose(1, 2, 0)
        assert np.abs(np.diff(image, axis=1)).mean() < 0.8 * image.std()
        assert np.abs(np.diff(image, axis=0)).mean() < 0.8 * image.std()
        if dtype != np.float32:
            assert 150 < np.ptp(image) <= 255
    run_pipeline(graph, parse_pipeline(PRESETS["exact"]), verify="each")
