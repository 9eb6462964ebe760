"""`replace-swish`: every way to write Swish, and none of the gates that look like it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known import known, values_of
from PIL import Image
from small_networks import MakeGraph, Normal, Ops, Rewrite

from graphopt.errors import InputError
from graphopt.fitting.activation_fit import ActivationSite, fit_in_order
from graphopt.fitting.activation_matching import ACTIVATIONS, KINDS, Found, recognised
from graphopt.fitting.activation_surrogates import Form, Gate, PiecewiseLinear, PowerTail
from graphopt.fitting.calibration import Calibration
from graphopt.ir.onnx_io import to_proto
from graphopt.optimizer.pass_contract import Context
from graphopt.passes.replace_swish import ReplaceSwish
from graphopt.pose.map_slices import MapSlice
from graphopt.pose.skeleton import load_skeleton
from graphopt.pose.spec import PoseSpec, Preprocess
from graphopt.runtime.differences import output_error
from graphopt.runtime.engine import OnnxRuntimeEngine

X = "float[1,4,6,6] x"
Y = "float[1,4,6,6] y"
C = {"c": np.float32(1.25), "k": np.full((1, 1, 1, 1), 0.8, np.float32)}

X_TENSOR, Y_TENSOR = gs.Variable("x"), gs.Variable("y")


def hard(x: np.ndarray, factor: float = 1.0, slope: float = 1.0) -> np.ndarray:
    return factor * x * np.clip(slope * x + 3, 0, 6) / 6


def swish(x: np.ndarray, factor: float = 1.0, slope: float = 1.0) -> np.ndarray:
    return np.asarray(factor * x / (1 + np.exp(-slope * x)))


def values(graph: gs.Graph) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(-8, 8, 144, dtype=np.float32).reshape(1, 4, 6, 6)
    return x, OnnxRuntimeEngine(to_proto(graph).SerializeToString()).run({"x": x})["y"]


FORMS = {
    "plain": ("s = Sigmoid(x) y = Mul(x, s)", 1, 1, 13),
    "swapped": ("s = Sigmoid(x) y = Mul(s, x)", 1, 1, 11),
    "factor on x": ("v = Mul(c, x) s = Sigmoid(x) y = Mul(v, s)", 1.25, 1, 13),
    "factor on the gate": ("s = Sigmoid(x) g = Mul(s, k) y = Mul(x, g)", 0.8, 1, 17),
    "both": ("v = Mul(x, c) s = Sigmoid(x) g = Mul(s, k) y = Mul(g, v)", 1.0, 1, 17),
    "slope": ("u = Mul(x, c) s = Sigmoid(u) y = Mul(x, s)", 1, 1.25, 17),
    "slope and factor": ("u = Mul(x, c) v = Mul(k, x) s = Sigmoid(u) y = Mul(v, s)", 0.8, 1.25, 21),
    "QuickGelu": ("y = com.microsoft.QuickGelu<alpha=1.25>(x)", 1, 1.25, 17),
    "Swish": ("y = Swish<alpha=1.25>(x)", 1, 1.25, 24),
}


@pytest.mark.parametrize(("body", "factor", "slope", "opset"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("form", ["ops", "op"])
def test_hard_gate(
    network: MakeGraph,
    ops: Ops,
    body: str,
    factor: float,
    slope: float,
    opset: int,
    form: Literal["ops", "op"],
) -> None:
    graph = network(X, Y, body, opset=opset, **C)
    if opset != 24:  # too new for the operator to have a CPU kernel in every onnxruntime
        x, y = values(graph)
        assert np.allclose(y, swish(x, factor, slope), atol=1e-5)
    outcome = ReplaceSwish(form=form).run(graph)
    if form == "op" and opset < 14:
        assert "form=ops" in outcome.skips[0].reason
        return
    assert len(outcome.changes) == 1
    assert ("HardSwish" in ops(graph)) == (form == "op")
    assert not {"Sigmoid", "QuickGelu", "Swish"} & set(ops(graph))
    x, y = values(graph)
    assert np.allclose(y, hard(x, factor, slope), atol=1e-5)


@pytest.mark.parametrize(("body", "factor", "slope", "opset"), FORMS.values(), ids=FORMS)
def test_literal_hardtanh(
    network: MakeGraph, body: str, factor: float, slope: float, opset: int
) -> None:
    graph = network(X, Y, body, opset=opset, **C)
    ReplaceSwish(gate="hardtanh").run(graph)
    x, y = values(graph)
    assert np.allclose(y, factor / slope * np.clip(slope * x, -1, 1), atol=1e-5)


def test_hardswish_nodes(network: MakeGraph, rewrite: Rewrite, ops: Ops) -> None:
    graph = network(X, Y, "y = HardSwish(x)")
    spelled, _ = rewrite(graph, ReplaceSwish())
    assert ops(spelled) == ["Add", "Clip", "Mul", "Mul"]
    kept, outcome = rewrite(graph, ReplaceSwish(form="op"))
    assert ops(kept) == ["HardSwish"]
    assert outcome.changes == ()


@pytest.mark.parametrize(
    "body",
    [
        "p = GlobalAveragePool(x) s = Sigmoid(p) y = Mul(x, s)",
        "r = Relu(x) s = Sigmoid(r) y = Mul(x, s)",
        "v = Mul(x, per) s = Sigmoid(x) y = Mul(v, s)",
        "u = Add(x, c) s = Sigmoid(u) y = Mul(x, s)",
    ],
    ids=["squeeze and excitation", "another tensor", "factor for each channel", "shifted"],
)
def test_gates_of_other_tensors(
    network: MakeGraph, rewrite: Rewrite, ops: Ops, normal: Normal, body: str
) -> None:
    graph = network(X, Y, body, per=normal(1, 4, 1, 1), **C)
    kept, outcome = rewrite(graph, ReplaceSwish())
    assert ops(kept) == ops(graph)
    assert "gates another tensor" in outcome.skips[0].reason


def test_what_others_read_stays(network: MakeGraph, ops: Ops) -> None:
    """The Sigmoid is also an output of the network, the product inside e-Swish is read twice."""
    graph = network(
        X,
        f"{Y}, float[1,4,6,6] s, float[1,4,6,6] r",
        "v = Mul(c, x) s = Sigmoid(x) y = Mul(v, s) r = Relu(v)",
        **C,
    )
    ReplaceSwish().run(graph)
    assert ops(graph).count("Sigmoid") == 1
    assert {t.name for t in graph.outputs} == {"y", "s", "r"}
    x, y = values(graph)
    assert np.allclose(y, hard(x, 1.25), atol=1e-5)


def test_the_stated_error_bound() -> None:
    x = np.linspace(-20, 20, 400_001)
    error = np.abs(hard(x) - swish(x))
    assert error.max() < 0.1425
    assert abs(abs(x[error.argmax()]) - 3) < 1e-3


@pytest.mark.assets
def test_efficientpose_every_swish_and_no_gate(efficientpose: Path) -> None:
    from graphopt.ir.onnx_io import load_model

    graph = load_model(efficientpose)
    sites: set[str] = set()
    gates: set[str] = set()
    for node in graph.nodes:
        if node.op != "Sigmoid":
            continue
        (product,) = node.outputs[0].outputs
        assert product.op == "Mul"
        (other,) = (t for t in product.inputs if t is not node.outputs[0])
        x = node.inputs[0]
        maker = other.inputs[0] if other.inputs else None
        same = other is x or (maker and maker.op == "Mul" and any(t is x for t in maker.inputs))
        (sites if same else gates).add(product.name)
    assert len(sites) == 59
    assert len(gates) == 20
    outcome = ReplaceSwish().run(graph)
    assert {change.node for change in outcome.changes} == sites
    assert {skip.node for skip in outcome.skips} == gates
    assert sum(node.op == "Sigmoid" for node in graph.nodes) == len(gates)


@pytest.fixture
def seen(network: MakeGraph, normal: Normal, tmp_path: Path) -> tuple[gs.Graph, Context]:
    """Swish behind a convolution whose channels have very different ranges, and photos for it."""
    rng = np.random.default_rng(4)
    for index in range(8):
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(tmp_path / f"{index}.png")
    scale = np.geomspace(0.2, 8, 19).astype(np.float32)[:, None, None, None]
    graph = network(
        "float[1,3,32,32] x",
        "float[1,19,32,32] y",
        """c = Conv<pads=[1,1,1,1]>(x, w) s = Sigmoid(c) m = Mul(c, s)
           d = Conv(m, v) t = Sigmoid(d) e = Mul(f, d) y = Mul(e, t)""",
        w=normal(19, 3, 3, 3) / 5 * scale,
        v=normal(19, 19, 1, 1) / 8,
        f=np.float32(1.25),
    )
    for node in graph.nodes:  # as Caffe and its like name them
        node.name = node.outputs[0].name
    spec = PoseSpec(
        preprocess=Preprocess(color="rgb", mean=(128.0,) * 3, scale=(1 / 64,) * 3),
        skeleton=load_skeleton("coco18"),
        heat=MapSlice(output="y", count=19),
        stride=1,
    )
    return graph, Context(graph, Calibration.from_photos(tmp_path, graph, spec))


def test_fitted_gates_come_closer_than_hard_ones(seen: tuple[gs.Graph, Context]) -> None:
    graph, context = seen
    feeds = list(known(context.calibration).feeds(known(context.calibration).held_out))
    errors = {}
    options = {"hard": {}, "fitted": {"gate": "fitted"}}
    for gate, chosen in (options | {"smooth": {"gate": "fitted", "smooth": True}}).items():
        changed = graph.copy()
        outcome = ReplaceSwish(**chosen).run(changed, context)
        assert len(outcome.changes) == 2
        assert "Sigmoid" not in [node.op for node in changed.nodes]
        onnx.checker.check_model(to_proto(changed), full_check=True)
        errors[gate] = output_error(changed, graph, feeds)
    assert errors["fitted"] < 0.8 * errors["hard"]
    assert errors["smooth"] < 0.25 * errors["fitted"]


def test_a_gate_is_fitted_behind_those_before_it(seen: tuple[gs.Graph, Context]) -> None:
    """The second gate's target is the original's output, its input the changed network's."""
    graph, context = seen
    changed = graph.copy()
    first = next(node for node in changed.nodes if node.outputs[0].name == "d")
    weight = values_of(first.inputs[1])
    first.inputs[1] = gs.Constant("doubled", 2 * weight)
    ReplaceSwish(gate="fitted").run(changed, context)
    feeds = list(known(context.calibration).feeds(known(context.calibration).held_out))
    blind = graph.copy()
    ReplaceSwish(gate="fitted").run(blind, context)
    next(n for n in blind.nodes if n.outputs[0].name == "d").inputs[1] = gs.Constant(
        "doubled", 2 * weight
    )
    assert output_error(changed, graph, feeds) < 0.8 * output_error(blind, graph, feeds)


def test_fitting_needs_images(seen: tuple[gs.Graph, Context]) -> None:
    graph, _ = seen
    with pytest.raises(InputError, match="no images"):
        ReplaceSwish(gate="fitted").run(graph, Context(graph))


def test_a_fitted_gate_is_the_best_of_its_channel() -> None:
    """No slope and offset nearby fit better, and a gate is found again from what it makes."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 400)) * np.array([[0.3], [2.0], [6.0]])
    start = Gate.plain([1 / 6, 0.5])
    true = Gate(np.array([[0.3, 0.25, 0.1], [0.4, 0.5, 0.7]])[..., None], 1.0)
    found = start.fitted(x, true(x))
    assert np.abs(found(x) - true(x)).max() < 0.02
    swish = x / (1 + np.exp(-x))
    best = start.fitted(x, swish)
    error = np.square(best(x) - swish).mean(axis=1)
    assert (error < np.square(start(x) - swish).mean(axis=1)).all()
    for nudge in ([0.01, 0], [-0.01, 0], [0, 0.01], [0, -0.01]):
        other = Gate(best.numbers + np.array(nudge)[:, None, None], 1.0)
        assert (np.square(other(x) - swish).mean(axis=1) > error - 1e-6).all()


# --- other exponentials -------------------------------------------------------------------------

ROOT = {"r": np.float32(2**0.5), "i": np.float32(0.5**0.5), "h": np.float32(0.5)}
ONE = {"o": np.ones((1,), np.float32), "t": np.float32(3.0)}
TANH = {"a": np.float32(0.044715), "b": np.float32((2 / np.pi) ** 0.5)}
SPELLINGS = {
    "Elu": ("elu", "y = Elu(x)", 11),
    "Elu, deeper": ("elu", "y = Elu<alpha=1.5>(x)", 13),
    "Selu": ("elu", "y = Selu(x)", 13),
    "Softplus": ("softplus", "y = Softplus(x)", 13),
    "Softplus by hand": ("softplus", "e = Exp(x) s = Add(e, o) y = Log(s)", 13),
    "Mish": ("mish", "y = Mish(x)", 21),
    "Mish as exported": ("mish", "s = Softplus(x) n = Tanh(s) y = Mul(x, n)", 13),
    "Mish by hand": ("mish", "e = Exp(x) p = Add(e, o) s = Log(p) n = Tanh(s) y = Mul(n, x)", 17),
    "Gelu": ("gelu", "y = Gelu(x)", 21),
    "Gelu, tanh": ("gelu", 'y = Gelu<approximate="tanh">(x)', 21),
    "Microsoft's Gelu": ("gelu", "y = com.microsoft.Gelu(x)", 17),
    "Microsoft's FastGelu": ("gelu", "y = com.microsoft.FastGelu(x)", 17),
    "erf": ("gelu", "d = Div(x, r) e = Erf(d) p = Add(e, o) m = Mul(x, p) y = Mul(m, h)", 13),
    "erf, half first": (
        "gelu",
        "d = Mul(x, i) e = Erf(d) p = Add(o, e) m = Mul(h, x) y = Mul(p, m)",
        17,
    ),
    "tanh": (
        "gelu",
        """q = Pow(x, t) c = Mul(a, q) s = Add(x, c) d = Mul(s, b) e = Tanh(d)
           p = Add(e, o) m = Mul(x, p) y = Mul(m, h)""",
        17,
    ),
}
LARGEST_ERROR = {"gelu": 0.0655, "mish": 0.1425, "elu": 0.0605, "softplus": 0.166}
NUMBERS = {**ROOT, **ONE, **TANH}


@pytest.mark.parametrize(("kind", "body", "opset"), SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling(network: MakeGraph, ops: Ops, kind: str, body: str, opset: int) -> None:
    graph = network(X, Y, body, opset=opset, **NUMBERS)
    _, exact = values(graph)
    asked = graph.copy()
    assert f"activations={kind}" in ReplaceSwish().run(asked).skips[0].reason
    assert ops(asked) == ops(graph)
    outcome = ReplaceSwish(activations=kind).run(graph)
    assert [change.node for change in outcome.changes] == ["y"]
    assert set(ops(graph)) <= {"Add", "Mul", "Clip", "Max"}
    # A deeper ELU has a corner that points the wrong way for a maximum.
    depth = max(1, -exact.min()) if kind == "elu" else 1
    assert np.abs(values(graph)[1] - exact).max() < LARGEST_ERROR[kind] * depth**2 + 1e-4


@pytest.mark.parametrize("dtype", ["float16", "double"])
@pytest.mark.parametrize("kind", KINDS)
def test_element_types(network: MakeGraph, kind: str, dtype: str) -> None:
    numpy_type = {"float16": np.float16, "double": np.float64}[dtype]
    body = {
        "swish": "s = Sigmoid(x) y = Mul(x, s)",
        "gelu": "d = Div(x, r) e = Erf(d) p = Add(e, o) m = Mul(x, p) y = Mul(m, h)",
        "mish": "s = Softplus(x) n = Tanh(s) y = Mul(x, n)",
        "elu": "y = Elu(x)",
        "softplus": "y = Softplus(x)",
    }[kind]
    numbers = {name: np.asarray(value, numpy_type) for name, value in NUMBERS.items()}
    graph = network(f"{dtype}[1,4,6,6] x", f"{dtype}[1,4,6,6] y", body, opset=14, **numbers)
    outcome = ReplaceSwish(activations="all").run(graph)
    assert len(outcome.changes) == 1
    onnx.checker.check_model(to_proto(graph), full_check=True)


@pytest.mark.parametrize(
    "body",
    [
        "s = Sigmoid(x) n = Tanh(s) y = Mul(z, n)",
        "d = Div(x, per) e = Erf(d) p = Add(e, o) m = Mul(x, p) y = Mul(m, h)",
        "d = Div(x, r) e = Erf(d) p = Add(e, o) m = Mul(x, p) f = Mul(m, five) y = Squeeze(f)",
        "e = Exp(x) y = Add(e, o)",
        "y = Tanh(x)",
        "y = Sigmoid(x)",
        "y = com.microsoft.FastGelu(x, bias)",
    ],
    ids=["another's gate", "per channel", "rank", "Exp", "Tanh", "plain Sigmoid", "bias"],
)
def test_what_only_looks_like_them(network: MakeGraph, ops: Ops, normal: Normal, body: str) -> None:
    constants = {
        "per": normal(1, 4, 1, 1),
        "five": np.full((1, 1, 1, 1, 1), 0.5, np.float32),
        "bias": normal(6),
    }
    graph = network(f"{X}, float[1,4,6,6] z", Y, body, **NUMBERS, **constants)
    before = ops(graph)
    outcome = ReplaceSwish(activations="all").run(graph)
    if "five" in body:  # the product of higher rank stays, what it scales is GELU times two
        assert ops(graph)[-2:] == ["Mul", "Squeeze"]
        assert graph.tensors()["f"].inputs[0].inputs[1].name == "five"
    else:
        assert not outcome.changes
        assert ops(graph) == before


def test_a_softplus_that_two_share(network: MakeGraph, ops: Ops) -> None:
    """Both Mish go, and nothing is left that nobody reads."""
    graph = network(
        X,
        f"{Y}, float[1,4,6,6] w",
        "s = Softplus(x) n = Tanh(s) y = Mul(x, n) m = Tanh(s) w = Mul(m, x)",
    )
    outcome = ReplaceSwish(activations="all").run(graph)
    assert {change.node for change in outcome.changes} == {"y", "w"}
    assert ops(graph) == 2 * ["Add", "Clip", "Mul", "Mul"]


def test_a_softplus_that_is_an_output(network: MakeGraph, ops: Ops) -> None:
    graph = network(X, f"{Y}, float[1,4,6,6] s", "s = Softplus(x) n = Tanh(s) y = Mul(x, n)")
    ReplaceSwish(activations="mish").run(graph)
    assert ops(graph).count("Softplus") == 1
    assert "Tanh" not in ops(graph)
    assert graph.tensors()["s"].inputs[0].op == "Softplus"


def test_a_factor_behind_what_others_read_is_no_part_of_it(network: MakeGraph, ops: Ops) -> None:
    graph = network(X, f"{Y}, float[1,4,6,6] w", "w = Elu(x) y = Mul(w, h)", **NUMBERS)
    outcome = ReplaceSwish(activations="elu").run(graph)
    assert [change.node for change in outcome.changes] == ["w"]
    assert graph.tensors()["y"].inputs[0].inputs[0].name == "w"


@pytest.mark.parametrize("kind", ["swish", "elu"])
def test_vectors(network: MakeGraph, ops: Ops, kind: str) -> None:
    """The constants do not add a dimension."""
    body = {"swish": "s = Sigmoid(x) y = Mul(x, s)", "elu": "y = Elu(x)"}[kind]
    graph = network("float[7] x", "float[7] y", body)
    assert len(ReplaceSwish(activations=kind).run(graph).changes) == 1
    onnx.checker.check_model(to_proto(graph), full_check=True)
    made = OnnxRuntimeEngine(to_proto(graph).SerializeToString())
    assert made.run({"x": np.ones(7, np.float32)})["y"].shape == (7,)


def test_bfloat16_stays(network: MakeGraph, ops: Ops) -> None:
    graph = network("bfloat16[1,4] x", "bfloat16[1,4] y", "y = Elu(x)", opset=24)
    assert not ReplaceSwish(activations="elu").run(graph).changes


def test_hardtanh_is_for_swish(network: MakeGraph) -> None:
    outcome = ReplaceSwish(gate="hardtanh", activations="all").run(network(X, Y, "y = Elu(x)"))
    assert "Swish's place only" in outcome.skips[0].reason


def test_an_activation_that_there_is_not() -> None:
    with pytest.raises(InputError, match="no activation 'selu'"):
        ReplaceSwish(activations="elu+selu")


NONZERO = st.floats(0.1, 4) | st.floats(-4, -0.1)


@settings(deadline=None)
@given(scale=NONZERO, slope=NONZERO)
def test_swish_is_known_by_what_it_computes(scale: float, slope: float) -> None:
    activation, *found = known(recognised(lambda x: scale * x / (1 + np.exp(-slope * x))))
    assert activation.kind == "swish"
    assert np.allclose(found, [scale, slope], atol=1e-4)


@settings(deadline=None)
@given(scale=st.floats(0.1, 4), depth=st.floats(0.1, 4))
def test_elu_is_known_by_what_it_computes(scale: float, depth: float) -> None:
    activation, *found = known(
        recognised(lambda x: scale * np.where(x > 0, x, depth * np.expm1(np.minimum(x, 0))))
    )
    assert activation.kind == "elu"
    assert np.allclose(found, [scale, depth], atol=1e-4)


@settings(deadline=None)
@given(slope=NONZERO, offset=st.floats(0.1, 4) | st.floats(-4, -0.1))
def test_a_shifted_gate_is_no_swish(slope: float, offset: float) -> None:
    assert recognised(lambda x: x / (1 + np.exp(-slope * x - offset))) is None


STARTS = {activation.title: activation for activation in ACTIVATIONS}


@settings(max_examples=40, deadline=None)
@given(
    title=st.sampled_from(sorted(STARTS)),
    spread=st.floats(0.05, 10),
    middle=st.floats(-3, 3),
    scale=st.floats(0.2, 3),
    seed=st.integers(0, 100),
)
def test_a_fit_is_never_worse_than_its_start(
    title: str, spread: float, middle: float, scale: float, seed: int
) -> None:
    """In any channel, whatever the values; and where they are usual ones, it is far better."""
    x = middle + spread * np.random.default_rng(seed).standard_normal((3, 200))
    x[1] = middle
    start = STARTS[title].form(scale, 1.0)
    y = scale * STARTS[title].curve(x, 1.0)
    best = start.fitted(x, y)
    before, after = (np.square(form(x) - y).mean(axis=1) for form in (start, best))
    assert np.isfinite(best.numbers).all()
    assert (after <= before + 1e-12).all()
    assert best.valid(start).all()


@pytest.mark.parametrize("form", ["Swish", "Swish, smooth", "ELU", "Softplus"])
@pytest.mark.parametrize("middle", [-3.0, 0.0, 2.0])
def test_channels_that_see_little_of_the_curve(form: str, middle: float) -> None:
    """Far from where the plain form bends, the fitted one still follows the curve."""
    title, _, smooth = form.partition(", ")
    found = Found(STARTS[title], 1.0, 1.0, X_TENSOR, Y_TENSOR, ())
    start = found.smooth_form if smooth else found.form
    x = middle + 0.1 * np.random.default_rng(2).standard_normal((1, 300))
    y = STARTS[title].curve(x, 1.0)
    assert (start.fitted(x, y)(x) - y).std() < 0.12 * y.std()


@pytest.mark.parametrize(
    ("title", "limit"),
    {"Swish": 0.065, "GELU": 0.055, "Mish": 0.065, "ELU": 0.03, "Softplus": 0.13}.items(),
)
def test_the_stated_fit_errors(title: str, limit: float) -> None:
    activation = STARTS[title]
    x = np.random.default_rng(3).standard_normal((1, 4000))
    y = activation.curve(x, 1.0)
    form = activation.form(1.0, 1.0)
    best = form.fitted(x, y)
    assert (best(x) - y).std() < limit * y.std()
    if activation.tail:
        found = Found(activation, 1.0, 1.0, X_TENSOR, Y_TENSOR, ())
        smooth = found.smooth_form.fitted(x, y)
        assert (smooth(x) - y).std() < 0.007 * y.std()


@pytest.mark.parametrize("title", ["Swish", "GELU"])
def test_a_smooth_fit_to_few_values_is_bounded_elsewhere(title: str) -> None:
    activation = STARTS[title]
    middles = np.concatenate([np.linspace(-9, 9, 37), np.linspace(-0.1, 0.1, 5)])[:, None]
    seen = middles + 0.2 * np.random.default_rng(3).standard_normal((1, 400))
    # What earlier fits have moved is made up for.
    wanted = activation.curve(seen + 0.05, 1.0)
    smooth = Found(activation, 1.0, 1.0, X_TENSOR, Y_TENSOR, ()).smooth_form.fitted(seen, wanted)
    x = np.broadcast_to(np.linspace(-30, 30, 601), (len(middles), 601))
    assert (np.abs(smooth(x)) <= np.abs(x)).all()


FOURTH = PowerTail(np.array([[[0.13]], [[0.8]]]), 1.0, power=4)
FORMS_TO_WRITE: dict[str, Form] = {
    "gate": Gate.plain([0.3, 0.4], 1.5),
    "gate, falling": Gate.plain([-0.3, 0.4], -1.5),
    "tail": PowerTail.plain([0.08, 0.9]),
    "tail, fourth power": FOURTH,
    "tail, scaled": PowerTail.plain([0.13, 0.8], 1.5),
    "tail, falling": PowerTail.plain([0.13, 0.8], -1.5),
    "lines": PiecewiseLinear.plain([0.3, -0.2, -1], 1.5),
}


@pytest.mark.parametrize("form", FORMS_TO_WRITE.values(), ids=FORMS_TO_WRITE)
def test_what_is_written_is_what_was_fitted(
    network: MakeGraph, form: Gate | PowerTail | PiecewiseLinear
) -> None:
    graph = network(X, Y, "y = Relu(x)")
    y = graph.nodes.pop().outputs[0]
    y.inputs.clear()
    spread = form.spread(4)
    spread = replace(spread, numbers=spread.numbers * np.array([0.5, 1, 1.5, 2])[:, None])
    spread.write(graph, graph.inputs[0], y)
    x, made = values(graph)
    expected = spread(x[0].reshape(4, -1).astype(np.float64)).reshape(made.shape)
    assert np.allclose(made, expected, atol=1e-5)


@pytest.mark.parametrize("form", FORMS_TO_WRITE.values(), ids=FORMS_TO_WRITE)
def test_the_gradient_is_the_forms_slope(form: Gate | PowerTail | PiecewiseLinear) -> None:
    x = np.random.default_rng(0).uniform(-4, 4, (2, 50))
    best = form.spread(2)
    for index, slopes in enumerate(best.gradient(x)):
        nudge = np.zeros_like(best.numbers)
        nudge[index] = 1e-6
        ahead = replace(best, numbers=best.numbers + nudge)(x)
        assert np.abs((ahead - best(x)) / 1e-6 - slopes).max() < 1e-4


# --- the largest error of a site ----------------------------------------------------------------


def test_sites_that_err_too_much_stay(seen: tuple[gs.Graph, Context]) -> None:
    graph, context = seen
    free = ReplaceSwish(gate="fitted").run(graph.copy(), context)
    errors = [float(known(re.search(r"[\d.]+", change.summary))[0]) for change in free.changes]
    assert min(errors) < max(errors)
    between = sum(errors) / 2
    changed = graph.copy()
    outcome = ReplaceSwish(gate="fitted", max_error=between).run(changed, context)
    (skip,) = outcome.skips
    assert len(outcome.changes) == 1
    assert "stays: fitted, 0." in skip.reason
    assert [node.op for node in changed.nodes].count("Sigmoid") == 1
    kept = graph.copy()
    assert not ReplaceSwish(gate="fitted", max_error=1e-6).run(kept, context).changes
    assert [node.op for node in kept.nodes] == [node.op for node in graph.nodes]


def test_later_fits_see_the_sites_that_stayed(seen: tuple[gs.Graph, Context]) -> None:
    graph, context = seen
    # Three lines cannot follow Swish.
    first = ActivationSite("c", "m", PiecewiseLinear.plain([0.3, -0.3, -0.9]))
    second = ActivationSite("d", "y", Gate.plain([1 / 6, 0.5], 1.25))

    def error_of_second(places: list[ActivationSite], **limit: Any) -> float:
        return fit_in_order(graph, places, graph, known(context.calibration), **limit)["y"].error

    alone = error_of_second([second])
    behind = error_of_second([first, second])
    stayed = error_of_second([second, first], max_error=1e-6)
    assert alone == pytest.approx(stayed, rel=0.15)
    assert behind > 1.3 * stayed


def test_a_site_that_the_original_does_not_know(seen: tuple[gs.Graph, Context], ops: Ops) -> None:
    graph, context = seen
    graph = graph.copy()
    graph.tensors()["m"].name = "renamed"
    outcome = ReplaceSwish(gate="fitted").run(graph, context)
    assert "the original has no renamed" in outcome.skips[0].reason
    assert len(outcome.changes) == 1
