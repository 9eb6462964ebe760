"""Operators that cannot be compiled are refused before the work begins, by name and node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_networks import MakeProto

from graphopt.codegen.importing.supported import IMPORTED, NOT_STATIC
from graphopt.compiler import compile as compiling
from graphopt.compiler import prepare
from graphopt.compiler.compile import compile_model
from graphopt.compiler.prepare import prepare_network
from graphopt.errors import Unsupported

X = "float[1,3,8,8] x"


def test_the_list_is_what_the_importers_know() -> None:
    frontend = pytest.importorskip("tvm.relax.frontend.onnx.onnx_frontend")
    from graphopt.codegen.importing.operators import CONVERTERS

    assert set(frontend._get_convert_map()) | set(CONVERTERS) == IMPORTED
    assert NOT_STATIC < IMPORTED


REFUSED = {
    "a loop": (
        "float[1,3,8,8] y",
        "y = Loop<body = l (int64 i, bool go, float[1,3,8,8] k) => "
        "(bool on, float[1,3,8,8] k2) { on = Identity(go) k2 = Neg(k) }>(n, yes, x)",
        "Loop cannot be compiled: there is no rule for it",
    ),
    "another domain": (
        "float[1,3,8,8] y",
        "y = com.microsoft.QuickGelu(x)",
        r"com\.microsoft\.QuickGelu cannot be compiled",
    ),
    "values decide the size": ("int64[4,N] y", "y = NonZero(x)", "NonZero cannot.* no fixed size"),
}


@pytest.mark.parametrize(("output", "body", "message"), REFUSED.values(), ids=REFUSED)
def test_operators_are_refused_before_the_work(
    proto: MakeProto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    output: str,
    body: str,
    message: str,
) -> None:
    def too_late(*_args: object, **_options: object) -> None:
        raise AssertionError("work has begun")

    monkeypatch.setattr(compiling, "run_worker", too_late)
    for name in ("detect_head", "run_pipeline"):
        monkeypatch.setattr(prepare, name, too_late)
    model = proto(X, output, body, n=np.int64(2), yes=np.bool_(True))
    model.graph.node[-1].name = "culprit"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(Unsupported, match=message) as caught:
        compile_model(tmp_path / "m.onnx", tmp_path / "bundle")
    assert caught.value.node == "culprit"
    assert not (tmp_path / "bundle").exists()


def test_what_is_cleaned_away_is_not_refused(proto: MakeProto, tmp_path: Path) -> None:
    model = proto(
        X,
        "float[1,3,8,8] y",
        "s = Shape(x) z = NonZero(s) k = NonZero(z) y = If<then_branch = t () => "
        "(float[1,3,8,8] o) { o = Neg(x) }, else_branch = e () => (float[1,3,8,8] o) "
        "{ o = Relu(x) }>(yes)",
        yes=np.bool_(True),
    )
    onnx.save(model, tmp_path / "m.onnx")
    graph = prepare_network(tmp_path / "m.onnx", None, {}, lambda _: None).graph
    assert [node.op for node in graph.nodes] == ["Neg"]
