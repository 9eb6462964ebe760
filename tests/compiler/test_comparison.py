"""What a bundle's comparison with onnxruntime lets through, and what the manifest says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.compiler import bundle_check, comparison
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.errors import CheckFailed
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.runner import BundleRunner

pytestmark = pytest.mark.usefixtures("compile_once")

Make = Callable[[float], Path]


@pytest.fixture
def amplifying(proto: Callable[..., onnx.ModelProto], tmp_path: Path) -> Make:
    """amplifying(1e5) -> a network that makes that much more of rounding."""

    def make(by: float) -> Path:
        rng = np.random.default_rng(0)
        weights = {
            "v": rng.standard_normal((32, 3, 3, 3)).astype(np.float32),
            "w": rng.standard_normal((32, 32, 3, 3)).astype(np.float32),
        }
        path = tmp_path / "net.onnx"
        model = proto(
            "float[1,3,24,24] x",
            "float[1,32,24,24] y",
            """a = Conv<pads=[1,1,1,1]>(x, v) b = Tanh(a) c = Conv<pads=[1,1,1,1]>(b, w)
               d = Mul(c, k) y = Sin(d)""",
            k=np.float32(by),
            **weights,
        )
        onnx.save(model, path)
        return path

    return make


def test_rounding_that_a_network_amplifies_is_measured(amplifying: Make, tmp_path: Path) -> None:
    done = compile_model(amplifying(100.0), tmp_path / "bundle")
    assert isinstance(done.difference, float)
    found = read_bundle(tmp_path / "bundle").manifest.comparison
    assert found is not None
    assert found.noise is not None
    assert 1e-3 < found.difference <= 2 * found.noise < 0.2
    assert found.failures == ()
    assert "within onnxruntime's own noise of" in done.remarks[0]


def test_where_there_is_nothing_to_excuse_nothing_is_measured(
    amplifying: Make, tmp_path: Path
) -> None:
    done = compile_model(amplifying(1.0), tmp_path / "bundle")
    assert done.manifest.comparison is not None
    assert (done.manifest.comparison.noise, done.remarks) == (None, ())


def test_a_network_without_an_answer_is_refused(amplifying: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="no answer to compare with") as caught:
        compile_model(amplifying(1e6), tmp_path / "bundle")
    assert "--on-fail warn" in str(caught.value)
    assert not (tmp_path / "bundle").exists()
    compile_model(amplifying(1e6), tmp_path / "bundle", CompileOptions(on_fail="warn"))
    comparison = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["comparison"]
    assert comparison["noise"] > 0.1
    assert "no answer to compare with" in comparison["failures"][-1]


WRONG = {
    "a little": (lambda y: y * 0.97, True),
    "one place": (lambda y: np.where(np.arange(y.size).reshape(y.shape) == 7, 1.5, y), True),
    "all": (lambda y: y + 5, False),
    "not a number": (lambda y: np.where(np.arange(y.size).reshape(y.shape) == 7, np.nan, y), False),
    "infinite": (lambda y: np.where(np.arange(y.size).reshape(y.shape) == 7, np.inf, y), False),
}


@pytest.mark.parametrize(("wrong", "may_be_kept"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused_and_may_be_overruled_within_bounds(
    amplifying: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: Callable[[np.ndarray], np.ndarray],
    may_be_kept: bool,
) -> None:
    opened = comparison.opened

    def damaged(bundle: Path, level: str) -> object:
        engine = opened(bundle, level)
        assert isinstance(engine, BundleRunner)
        run = engine.run
        monkeypatch.setattr(
            engine,
            "run",
            lambda feeds: {n: wrong(v).astype(v.dtype) for n, v in run(feeds).items()},
        )
        return engine

    monkeypatch.setattr(bundle_check, "opened", damaged)
    path, bundle = amplifying(3.0), tmp_path / "bundle"
    with pytest.raises(CheckFailed, match="differ from onnxruntime's by") as caught:
        compile_model(path, bundle)
    assert ("--on-fail warn" in str(caught.value)) == may_be_kept
    assert not bundle.exists()
    if not may_be_kept:
        with pytest.raises(CheckFailed):
            compile_model(path, bundle, CompileOptions(on_fail="warn"))
        assert not bundle.exists()
        return
    done = compile_model(path, bundle, CompileOptions(on_fail="warn"))
    manifest = read_bundle(bundle).manifest
    assert manifest.comparison is not None
    assert manifest.comparison.difference == done.difference
    assert manifest.comparison.failures == done.remarks
