"""Bundles that end with a decoder: photo in, people out, without the maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphopt.bench.stage_timing import STAGES, measure_budget
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.errors import CheckFailed
from graphopt.ir.input_shapes import format_input_shapes
from graphopt.pose import kernel_decoder
from graphopt.pose.decode import Poses
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.estimate import Estimator
from graphopt.pose.open import open_engine
from graphopt.runtime.open import open_bundle

pytestmark = pytest.mark.usefixtures("compile_once")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEMO = EXAMPLES / "demo.onnx"
SHAPES = {"image": (1, 3, 256, 456)}
TARGETS = ["cpu", pytest.param("opencl", marks=pytest.mark.opencl)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The demo network and its decoder, compiled for a target."""

    @cache
    def make(target: str) -> Path:
        path = tmp_path_factory.mktemp(target) / "demo.graphopt"
        compile_model(
            DEMO,
            path,
            CompileOptions(target=target, input_shape=format_input_shapes(SHAPES), max_people=3),
        )
        return path

    return make


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo network alone."""
    path = tmp_path_factory.mktemp("bare") / "demo.graphopt"
    compile_model(DEMO, path, CompileOptions(input_shape=format_input_shapes(SHAPES), post="none"))
    return path


def look(path: Path, engine: str | None = None, **options: Any) -> Poses:
    opened, spec = open_engine(path, engine=engine)
    with Image.open(EXAMPLES / "demo.png") as photo:
        return Estimator(opened, spec, DecodeOptions(**options))(photo.convert("RGB"))


@pytest.mark.parametrize("target", TARGETS)
def test_the_people_are_those_of_the_numpy_decoder(
    target: str, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = look(bundle(target), "onnxruntime", max_people=3)
    monkeypatch.setattr(kernel_decoder, "_peaks", None)  # nothing is decoded here
    got = look(bundle(target))
    assert got.warnings == expected.warnings == ("more than 3 people; the weakest were left out",)
    assert len(got.people) == 3
    for one, other in zip(got.people, expected.people, strict=True):
        np.testing.assert_allclose(one.keypoints, other.keypoints, atol=0.02)
        assert one.score == pytest.approx(other.score, abs=1e-4)
    again = look(bundle(target))
    for one, other in zip(got.people, again.people, strict=True):
        np.testing.assert_array_equal(one.keypoints, other.keypoints)


def test_thresholds_reach_the_kernels(bundle: Callable[[str], Path]) -> None:
    best, *others = look(bundle("cpu"), min_score=0.0).people
    kept = look(bundle("cpu"), min_score=best.score - 1e-4).people
    assert others
    assert len(kept) == 1
    assert not look(bundle("cpu"), peak_threshold=2.0).people


def test_only_people_come_back(bundle: Callable[[str], Path]) -> None:
    engine = open_bundle(bundle("cpu"))
    feeds = {"image": np.zeros((1, 3, 256, 456), np.float32)}
    engine.begin(feeds)
    found = engine.people(kernel_decoder.thresholds(DecodeOptions()))
    assert set(found) == {"people", "worth", "found", "counts"}
    assert set(engine.run(feeds)) == set(engine.outputs)
    assert not any("find_" in layer.kernel for layer in engine.profile(feeds, 1))


def test_where_the_time_goes(bundle: Callable[[str], Path], bare: Path) -> None:
    with Image.open(EXAMPLES / "demo.png") as photo:
        for path, people in ((bundle("cpu"), [3]), (bare, range(4, 9))):
            budget = measure_budget(
                open_bundle(path), EXAMPLES / "demo.png", photo.convert("RGB"), 2
            )
            assert budget.people in people
            assert tuple(budget.ms) == STAGES
            assert all(ms > 0 for ms in budget.ms.values())


def test_another_skeleton_is_decoded_here(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    engine, spec = open_engine(bundle("cpu"))
    limbs = spec.skeleton.limbs[:-1]
    other = replace(spec, skeleton=replace(spec.skeleton, limbs=limbs))
    with Image.open(EXAMPLES / "demo.png") as photo:
        assert len(Estimator(engine, other)(photo.convert("RGB")).people) > 3


def test_none_may_follow(bare: Path) -> None:
    assert open_bundle(bare).bundle.plan.decoder is None


def test_a_decoder_that_finds_others_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network's maps of made-up input are noise, in which many are found."""

    def none(*_: object) -> Poses:
        return Poses(())

    monkeypatch.setattr(kernel_decoder, "poses", none)
    shapes = {"image": (1, 3, 64, 64)}
    with pytest.raises(CheckFailed, match=r"find 0 of \d+ people"):
        compile_model(DEMO, tmp_path / "b", CompileOptions(input_shape=format_input_shapes(shapes)))
    assert not (tmp_path / "b").exists()
