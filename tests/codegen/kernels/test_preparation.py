"""Kernels that prepare photos do what `prepare` does, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tvm import te, tirx

from graphopt.codegen.importing.quantisation import step_of
from graphopt.codegen.kernels.pose import narrow
from graphopt.codegen.linking.kernel_bundle import write_kernels
from graphopt.codegen.lowering.preprocess_stage import can_prepare, with_preparation
from graphopt.codegen.targets import load_target
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.ir.arrays import Array
from graphopt.ir.input_shapes import format_input_shapes
from graphopt.pose.bundle_estimator import BundledEstimator
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.open import open_engine
from graphopt.pose.pixels import pixels_of
from graphopt.pose.preprocess import fitted, prepare
from graphopt.pose.resample import table, tables
from graphopt.pose.spec import Preprocess
from graphopt.runtime.open import open_bundle
from graphopt.runtime.plan import Launch, Plan, Tensor
from graphopt.runtime.runner import BundleRunner

SIZE, SIDE = (64, 104), 300
DEMO = Path(__file__).resolve().parents[3] / "examples" / "demo.onnx"
BGR = Preprocess(
    color="bgr", mean=(103.5, 116.3, 123.7), scale=(1 / 57.4, 1 / 57.1, 1 / 58.4), pad_value=17.0
)
RGB = Preprocess(color="rgb", mean=(0, 0, 0), scale=(1 / 255, 1 / 255, 1 / 255))
DOT = narrow.unit(load_target("cpu"))
TARGETS = [
    "cpu",
    pytest.param("cpu dot", marks=pytest.mark.skipif(not DOT, reason="no products of bytes")),
    pytest.param("opencl", marks=pytest.mark.opencl),
]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Preprocess], BundleRunner]:
    """A bundle that does nothing but prepare: its output is its input."""

    @cache
    def make(name: str, preprocess: Preprocess) -> BundleRunner:
        tensor = Tensor(shape=(1, 3, *SIZE), dtype="float32", arena=None)
        plan = Plan(tensors=(tensor,), inputs={"x": 0}, outputs={"x": 0})
        assert can_prepare(plan)
        target = load_target(name.partition(" ")[0])
        features = DOT.features if DOT and name == "cpu dot" else ()
        made = with_preparation(plan, b"", {}, preprocess, SIDE, target, features)
        plan, weights, kernels = made
        path = tmp_path_factory.mktemp(name)
        write_kernels(kernels, plan, weights, target, path / "b")
        return open_bundle(path / "b")

    return make


def check(runner: BundleRunner, photo: Image.Image, preprocess: Preprocess) -> None:
    expected, placement = prepare(photo, preprocess, SIZE)
    fit = fitted(photo.size, preprocess, SIZE)
    assert fit.placement == placement
    preparation = runner.bundle.plan.preparation
    assert preparation is not None
    given = tables(photo.size, fit, preparation.neighbours)
    assert given
    runner.prepare({"photo": pixels_of(photo, preparation.pixel), **given})
    np.testing.assert_array_equal(runner.maps()["x"], expected)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("preprocess", [BGR, RGB], ids=["bgr", "rgb"])
@pytest.mark.parametrize(
    "size", [(300, 300), (104, 64), (1, 1), (300, 1), (1, 300), (90, 300), (300, 200), (37, 5)]
)
def test_kernels_prepare_as_pillow_does(
    size: tuple[int, int],
    preprocess: Preprocess,
    target: str,
    runner: Callable[[str, Preprocess], BundleRunner],
) -> None:
    check(runner(target, preprocess), picture(*size), preprocess)


@settings(deadline=None)
@given(width=st.integers(1, SIDE), height=st.integers(1, SIDE), seed=st.integers(0, 9))
def test_photos_of_any_size(
    width: int, height: int, seed: int, runner: Callable[[str, Preprocess], BundleRunner]
) -> None:
    """One after the other: nothing of a photo shows in the next."""
    for name in ("cpu", "cpu dot") if DOT else ("cpu",):
        check(runner(name, BGR), picture(width, height, seed), BGR)


def test_a_table_is_a_weighted_mean() -> None:
    first, count, *weights = table(640, 100)
    assert (first >= 0).all()
    assert (first + count <= 640).all()
    assert np.abs(np.sum(weights, axis=0) - 2**22).max() <= len(weights)


@pytest.mark.parametrize("target", [TARGETS[0], TARGETS[-1]])
def test_bundles_prepare_what_they_can(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos that are too large, and another normalisation, are prepared by NumPy."""
    bundle = tmp_path / "b"
    compile_model(
        DEMO,
        bundle,
        CompileOptions(
            target=target, input_shape=format_input_shapes({"image": (1, 3, *SIZE)}), max_photo=200
        ),
    )
    engine, spec = open_engine(bundle)
    assert isinstance(engine, BundleRunner)
    plain = replace(spec, preprocess=replace(spec.preprocess, pad_value=3.0))
    called: list[str] = []
    own = engine.prepare

    def watched(tensors: Mapping[str, Array]) -> None:
        called.append("kernels")
        own(tensors)

    monkeypatch.setattr(engine, "prepare", watched)
    for size, said, expected in [
        ((200, 150), spec, ["kernels"]),
        ((201, 150), spec, []),
        ((200, 150), plain, []),
    ]:
        called.clear()
        photo = picture(*size)
        estimator = BundledEstimator(engine, said, DecodeOptions())
        placement = estimator.prepare(photo)
        assert called == expected
        tensor, same = prepare(photo, said.preprocess, SIZE)
        assert placement == same
        estimator.start()
        got = engine.maps()
        engine.begin({"image": tensor})
        for name, values in engine.maps().items():
            np.testing.assert_array_equal(got[name], values)


@pytest.mark.parametrize("side", [0, 100])
def test_none_are_prepared_where_it_is_not_wanted(
    side: int, pose_files: tuple[Path, Path], tmp_path: Path
) -> None:
    compile_model(pose_files[0], tmp_path / "b", CompileOptions(max_photo=side))
    assert (open_bundle(tmp_path / "b").bundle.plan.preparation is None) == (side == 0)


def quantising(scale: float, *, beside: bool = False) -> Any:
    """A kernel that quantises a picture of floats, as networks begin with one."""
    x = te.placeholder((1, 3, *SIZE), "float32", name="x")

    def value(_n: Any, _b: Any, y: Any, x_: Any, c: Any) -> Any:
        at = tirx.Select(x_ > 0, x_ - 1, x_) if beside else x_
        means = tirx.const(scale, "float32"), tirx.const(120, "int32")
        quantised = step_of(x[0, tirx.Select(c < 2, c, 2), y, at], *means, "uint8")
        return tirx.Select(c < 3, quantised, tirx.const(7, "uint8"))

    made = te.compute((1, 1, *SIZE, 4), value, name="quantise")
    return te.create_prim_func([x, made])


def first_kernel(function: Any) -> tuple[Plan, Mapping[str, Any]]:
    """A network of one kernel."""
    tensors = (
        Tensor(shape=(1, 3, *SIZE), dtype="float32", arena=None),
        Tensor(shape=(1, 1, *SIZE, 4), dtype="uint8", arena=0),
    )
    launches = (Launch("quantise", (0, 1), "quantise"),)
    arenas = (4 * SIZE[0] * SIZE[1],)
    plan = Plan(arenas, tensors, launches, inputs={"x": 0}, outputs={"q": 1})
    return plan, {"quantise": function}


@pytest.mark.parametrize("preprocess", [BGR, RGB], ids=["bgr", "rgb"])
def test_photos_become_a_networks_bytes(preprocess: Preprocess, tmp_path: Path) -> None:
    """The same as by way of floats, also where they are beyond what bytes hold."""
    target, scale = load_target("cpu"), 0.0061
    plan, functions = first_kernel(quantising(scale))
    plan, weights, kernels = with_preparation(plan, b"", functions, preprocess, SIDE, target)
    assert [launch.stage for launch in plan.launches] == ["input", "prepare", "prepare"]
    write_kernels({**functions, **kernels}, plan, weights, target, tmp_path / "b")
    runner = open_bundle(tmp_path / "b")
    preparation = plan.preparation
    assert isinstance(runner, BundleRunner)
    assert preparation is not None
    for size in [(300, 300), (104, 64), (1, 1), (300, 1), (1, 300), (90, 300), (37, 5)]:
        photo = picture(*size)
        tensor, _ = prepare(photo, preprocess, SIZE)
        expected = runner.run({"x": tensor})["q"]
        made = tables(photo.size, fitted(photo.size, preprocess, SIZE), preparation.neighbours)
        runner.feed({"x": np.zeros_like(tensor)})
        runner.prepare({"photo": pixels_of(photo, preparation.pixel), **made})
        np.testing.assert_array_equal(runner.maps()["q"], expected)
        meaning = np.clip(np.rint(tensor / np.float32(scale)) + 120, 0, 255).astype(np.uint8)
        np.testing.assert_array_equal(expected[0, 0, ..., :3], meaning[0].transpose(1, 2, 0))


@pytest.mark.parametrize(
    "function", [quantising(0.02, beside=True), quantising(1e-4)], ids=["others", "steep"]
)
def test_what_photos_do_not_become_at_once(function: Any) -> None:
    """Kernels that look at other pixels, and steps that are much finer than a photo's."""
    plan, functions = first_kernel(function)
    plan, _, _ = with_preparation(plan, b"", functions, BGR, SIDE, load_target("cpu"))
    assert [launch.stage for launch in plan.launches] == ["network", "prepare", "prepare"]
