"""`replace-swish`: every way to write Swish, and none of the gates that look like it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from PIL import Image

from graphopt.errors import InputError
from graphopt.fitting.calibration import Calibration
from graphopt.model import copy_model, to_proto
from graphopt.passbase import Context
from graphopt.passes.replace_swish import Gate, ReplaceSwish
from graphopt.pose.skeleton import load_skeleton
from graphopt.pose.spec import MapSlice, PoseSpec, Preprocess
from graphopt.verify import output_error

X = "float[1,4,6,6] x"
Y = "float[1,4,6,6] y"
C = {"c": np.float32(1.25), "k": np.full((1, 1, 1, 1), 0.8, np.float32)}


def hard(x, factor=1.0, slope=1.0):
    return factor * x * np.clip(slope * x + 3, 0, 6) / 6


def swish(x, factor=1.0, slope=1.0):
    return factor * x / (1 + np.exp(-slope * x))


def values(graph):
    from graphopt.engine import OnnxRuntimeEngine
    from graphopt.model import to_proto

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
def test_hard_gate(network, ops, body, factor, slope, opset, form):
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
def test_literal_hardtanh(network, body, factor, slope, opset):
    graph = network(X, Y, body, opset=opset, **C)
    ReplaceSwish(gate="hardtanh").run(graph)
    x, y = values(graph)
    assert np.allclose(y, factor / slope * np.clip(slope * x, -1, 1), atol=1e-5)


def test_hardswish_nodes(network, rewrite, ops):
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
def test_gates_of_other_tensors(network, rewrite, ops, normal, body):
    graph = network(X, Y, body, per=normal(1, 4, 1, 1), **C)
    kept, outcome = rewrite(graph, ReplaceSwish())
    assert ops(kept) == ops(graph)
    assert "gates another tensor" in outcome.skips[0].reason


def test_what_others_read_stays(network, ops):
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


def test_the_stated_error_bound():
    x = np.linspace(-20, 20, 400_001)
    error = np.abs(hard(x) - swish(x))
    assert error.max() < 0.1425
    assert abs(abs(x[error.argmax()]) - 3) < 1e-3


@pytest.mark.assets
def test_efficientpose_every_swish_and_no_gate(efficientpose):
    from graphopt.model import load_model

    graph = load_model(efficientpose)
    sites, gates = set(), set()
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
def seen(network, normal, tmp_path) -> tuple[gs.Graph, Context]:
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
    spec = PoseSpec(
        preprocess=Preprocess(color="rgb", mean=(128.0,) * 3, scale=(1 / 64,) * 3),
        skeleton=load_skeleton("coco18"),
        heat=MapSlice(output="y", count=19),
        stride=1,
    )
    return graph, Context(graph, Calibration.from_photos(tmp_path, graph, spec))


def test_fitted_gates_come_closer_than_hard_ones(seen):
    graph, context = seen
    feeds = list(context.calibration.feeds(context.calibration.held_out))
    errors = {}
    for gate in ("hard", "fitted"):
        changed = copy_model(graph)
        outcome = ReplaceSwish(gate=gate).run(changed, context)
        assert len(outcome.changes) == 2
        assert "Sigmoid" not in [node.op for node in changed.nodes]
        onnx.checker.check_model(to_proto(changed), full_check=True)
        errors[gate] = output_error(changed, graph, feeds)
    assert errors["fitted"] < 0.8 * errors["hard"]


def test_a_gate_is_fitted_behind_those_before_it(seen):
    """The second gate's target is the original's output, its input the changed network's."""
    graph, context = seen
    changed = copy_model(graph)
    first = next(node for node in changed.nodes if node.outputs[0].name == "d")
    weight = first.inputs[1].values
    first.inputs[1] = gs.Constant("doubled", 2 * weight)
    ReplaceSwish(gate="fitted").run(changed, context)
    feeds = list(context.calibration.feeds(context.calibration.held_out))
    blind = copy_model(graph)
    ReplaceSwish(gate="fitted").run(blind, context)
    next(n for n in blind.nodes if n.outputs[0].name == "d").inputs[1] = gs.Constant(
        "doubled", 2 * weight
    )
    assert output_error(changed, graph, feeds) < 0.8 * output_error(blind, graph, feeds)


def test_fitting_needs_images(seen):
    graph, _ = seen
    with pytest.raises(InputError, match="no images"):
        ReplaceSwish(gate="fitted").run(graph, Context(graph))


def test_a_fitted_gate_is_the_best_of_its_channel():
    """No slope and offset nearby fit better, and a gate is found again from what it makes."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 400)) * np.array([[0.3], [2.0], [6.0]])
    start = Gate(np.full((1, 1), 1 / 6), np.full((1, 1), 0.5), 1.0)
    true = Gate(np.array([[0.3], [0.25], [0.1]]), np.array([[0.4], [0.5], [0.7]]), 1.0)
    found = start.fitted(x, true(x))
    assert np.abs(found(x) - true(x)).max() < 0.02
    swish = x / (1 + np.exp(-x))
    best = start.fitted(x, swish)
    error = np.square(best(x) - swish).mean(axis=1)
    assert (error < np.square(start(x) - swish).mean(axis=1)).all()
    for ds, do in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        other = Gate(best.slope + ds, best.offset + do, 1.0)
        assert (np.square(other(x) - swish).mean(axis=1) > error - 1e-6).all()
