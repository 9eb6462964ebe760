"""Kernels that prepare photos do what `prepare` does, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

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
from graphopt.pose.preprocess import fitted, prepare
from graphopt.pose.resample import table, tables
from graphopt.pose.spec import Preprocess
from graphopt.runtime.bundle import Plan, Tensor
from graphopt.runtime.open import open_bundle
from graphopt.runtime.runner import BundleRunner

SIZE, SIDE = (64, 104), 300
DEMO = Path(__file__).resolve().parents[3] / "examples" / "demo.onnx"
BGR = Preprocess(
    color="bgr", mean=(103.5, 116.3, 123.7), scale=(1 / 57.4, 1 / 57.1, 1 / 58.4), pad_value=17.0
)
RGB = Preprocess(color="rgb", mean=(0, 0, 0), scale=(1 / 255, 1 / 255, 1 / 255))
TARGETS = ["cpu", pytest.param("opencl", marks=pytest.mark.opencl)]


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
        target = load_target(name)
        plan, weights, kernels = with_preparation(plan, b"", preprocess, SIDE, target)
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
    runner.prepare({"photo": np.asarray(photo), **given})
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
    check(runner("cpu", BGR), picture(width, height, seed), BGR)


def test_a_table_is_a_weighted_mean() -> None:
    first, count, *weights = table(640, 100)
    assert (first >= 0).all()
    assert (first + count <= 640).all()
    assert np.abs(np.sum(weights, axis=0) - 2**22).max() <= len(weights)


@pytest.mark.parametrize("target", TARGETS)
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
