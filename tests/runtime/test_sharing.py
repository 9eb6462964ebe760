"""Threads that share a bundle's runner, or an estimator, each get their own photo's answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graphopt.errors import InputError
from graphopt.pose.decode import Poses
from graphopt.pose.estimate import Estimator
from graphopt.pose.open import open_engine
from graphopt.runtime.open import open_bundle
from graphopt.runtime.runner import BundleRunner

ROOT = Path(__file__).resolve().parents[2]
THREADS = 8

TARGETS = pytest.mark.parametrize(
    "target", ["cpu", pytest.param("opencl", marks=pytest.mark.opencl)]
)


def at_once(work: Callable[[int], object]) -> list[object]:
    """work(0), work(1) … in threads that all begin at the same time."""
    ready = threading.Barrier(THREADS)

    def one(number: int) -> object:
        ready.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(THREADS)))


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """The demo's picture, and parts of it: other people, other sizes."""
    whole = Image.open(ROOT / "examples" / "demo.png").convert("RGB")
    width, height = whole.size
    parts = [whole.crop((i * width // 16, 0, width, height - i * 8)) for i in range(THREADS)]
    return [part.resize((part.width // 2, part.height // 2)) for part in parts]


def found(poses: Poses) -> list[list[list[float]]]:
    return [person.keypoints.tolist() for person in poses.people]


@TARGETS
def test_an_estimator(
    bundle: Callable[..., Path], pictures: list[Image.Image], target: str
) -> None:
    estimator = Estimator(*open_engine(bundle(target), threads=2))
    expected = [found(estimator(picture)) for picture in pictures]
    assert len({str(poses) for poses in expected}) == THREADS
    for _ in range(2):
        assert at_once(lambda i: found(estimator(pictures[i]))) == expected


@TARGETS
def test_a_runner(bundle: Callable[..., Path], target: str) -> None:
    runner = open_bundle(bundle(target), threads=2)
    feeds = [inputs(runner, i) for i in range(THREADS)]
    expected = [runner.run(feed) for feed in feeds]
    for got, right in zip(at_once(lambda i: runner.run(feeds[i])), expected, strict=True):
        assert isinstance(got, dict)
        for name, values in right.items():
            np.testing.assert_array_equal(got[name], values)


@TARGETS
def test_steps_under_its_lock(bundle: Callable[..., Path], target: str) -> None:
    runner = open_bundle(bundle(target), threads=2)
    feeds = [inputs(runner, i) for i in range(THREADS)]
    expected = [runner.run(feed) for feed in feeds]

    def steps(number: int) -> object:
        with runner.lock:
            runner.begin(feeds[number])
            return runner.maps()

    for got, right in zip(at_once(steps), expected, strict=True):
        assert isinstance(got, dict)
        for name, values in right.items():
            np.testing.assert_array_equal(got[name], values)


@TARGETS
@pytest.mark.parametrize("step", ["start", "maps", "people"])
def test_without_the_lock_anothers_answer_is_refused(
    bundle: Callable[..., Path], target: str, step: str
) -> None:
    runner = open_bundle(bundle(target), threads=2)
    runner.begin(inputs(runner, 0))
    other = threading.Thread(target=lambda: runner.begin(inputs(runner, 1)))
    other.start()
    other.join()
    arguments = (np.zeros(5, np.float32),) if step == "people" else ()
    with pytest.raises(InputError, match="another thread"):
        getattr(runner, step)(*arguments)
    runner.begin(inputs(runner, 0))  # and it is well again
    runner.maps()


@TARGETS
def test_a_photo_counts_as_input(
    bundle: Callable[..., Path], pictures: list[Image.Image], target: str
) -> None:
    engine, spec = open_engine(bundle(target), threads=2)
    assert isinstance(engine, BundleRunner)
    engine.begin(inputs(engine, 0))
    other = threading.Thread(target=lambda: Estimator(engine, spec)(pictures[0]))
    other.start()
    other.join()
    with pytest.raises(InputError, match="another thread"):
        engine.maps()


def inputs(runner: BundleRunner, seed: int) -> dict[str, np.ndarray]:
    """Input of a bundle, another for each seed."""
    ((name, shape),) = runner.inputs.items()
    sizes = [size for size in shape if size is not None]
    return {name: np.random.default_rng(seed).uniform(-1, 1, sizes).astype(np.float32)}
