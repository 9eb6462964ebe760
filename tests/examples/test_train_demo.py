"""A small network is trained after a teacher: pictures and maps agree, and training goes on."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra [distill])")

from graphopt.ir.onnx_io import load_model  # noqa: E402
from graphopt.optimizer.pass_contract import Context  # noqa: E402
from graphopt.optimizer.syntax import parse_pipeline  # noqa: E402
from graphopt.pose.detect import detect_pose_spec  # noqa: E402
from graphopt.pose.preprocess import prepare  # noqa: E402
from graphopt.runtime.engine import OnnxRuntimeEngine  # noqa: E402 (where PyTorch is)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEMO = EXAMPLES / "demo.onnx"
NEAR, FAR = "near.1", "features.swish"
"""The teacher's layers, where the demo network is the teacher."""


@pytest.fixture(scope="module")
def training(example: Callable[[str], ModuleType]) -> ModuleType:
    example("draw_demo")  # which it imports
    return example("train_demo")


def test_training_goes_on_and_every_pass_has_something_to_do(
    training: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lessons with the demo as its own teacher, then a third."""
    monkeypatch.setattr(training, "BATCH", 2)
    monkeypatch.setattr(training, "CROP", 96)
    training.keep(tmp_path, "blank.368", np.zeros((64, 96, 3)), np.zeros((8, 12, 57 + 96)))
    training.draw(1, tmp_path)
    near = functools.partial(training.Teacher, DEMO, NEAR, alone=True)
    for crops, step in ((4, 2), (4, 2), (6, 3)):
        training.train(tmp_path, near, crops, painted=0.5)
        assert training.Training(tmp_path, near=128, far=96).step == step

    graph = load_model(tmp_path / "demo.onnx")
    stacks = "undilate-conv{way=stacked}, stack-large-conv"
    for work in parse_pipeline(f"fold-batchnorm, replace-swish, {stacks}"):
        found = work.sites(graph, work.prepare(graph, Context()))
        assert any(type(site).__name__ != "Skip" for site in found)
    (truncate,) = parse_pipeline("truncate-refinement{stages=1}")
    assert [type(found).__name__ for found in truncate.match(graph)] == ["Cascade"]
    assert not detect_pose_spec(tmp_path / "demo.onnx").guesses


def test_the_onnx_file_computes_what_was_trained(training: ModuleType) -> None:
    net = training.PoseNet().eval()
    for norm in (module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.running_mean, std=0.1)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    image = torch.randn(1, 3, 48, 64)
    engine = OnnxRuntimeEngine(training.as_onnx(net).SerializeToString(), threads=1)
    got = engine.run({"image": image.numpy()})
    with torch.no_grad():
        wanted = net(image)
    for name, values in got.items():
        expected = wanted[name].numpy()
        np.testing.assert_allclose(np.asarray(values, np.float32), expected, atol=1e-4)


def test_what_the_teacher_sees_is_kept(training: ModuleType, tmp_path: Path) -> None:
    photo = Image.open(EXAMPLES / "demo.png").convert("RGB").crop((0, 0, 640, 736))
    photo.save(tmp_path / "two.png")
    training.see([tmp_path / "two.png"], training.Teacher(DEMO, FAR), tmp_path)
    spec, engine = detect_pose_spec(DEMO), OnnxRuntimeEngine(DEMO, threads=1)
    for height, mirrored in zip(training.HEIGHTS, (False, True), strict=True):
        pixels = np.load(tmp_path / f"two.{height}.pixels.npy")
        maps = np.load(tmp_path / f"two.{height}.maps.npy")
        feed, _ = prepare(photo, spec.preprocess, height=height)
        shown = (feed[0] * 127.5 + 127.5).transpose(1, 2, 0)
        shown = shown[:, ::-1] if mirrored else shown
        assert np.abs(pixels - shown).mean() < 1
        heat = engine.run({"image": (pixels.transpose(2, 0, 1)[None] / 127.5 - 1).astype("f")})
        np.testing.assert_allclose(maps[..., :19], heat["heat"][0].transpose(1, 2, 0), atol=0.05)
        assert maps.shape[2] == 57 + 96


def test_maps_turn_with_the_picture(training: ModuleType, tmp_path: Path) -> None:
    """A crop's bumps are where its dots are, and the field between them points from dot to dot."""
    limb = next(limb for limb in training.SKELETON.paf_limbs if limb.end == "right_wrist")
    start, end = training.SKELETON.ends(limb)
    places = np.array([[120.0, 100.0], [216.0, 172.0]])
    along = (places[1] - places[0]) / np.linalg.norm(places[1] - places[0])

    def bump(at: np.ndarray, width: float, stride: int, size: int) -> np.ndarray:
        cells = np.stack(np.meshgrid(*[np.arange(size) * stride + (stride - 1) / 2] * 2), axis=-1)
        return np.asarray(np.exp(-np.sum((cells - at) ** 2, axis=-1) / (2 * width**2)))

    pixels = 255 * np.sum([bump(at, 4, 1, 320) for at in places], axis=0)
    maps = np.zeros((40, 40, 57 + 1))
    maps[..., start], maps[..., end] = (bump(at, 9, 8, 40) for at in places)
    maps[..., [training.HEAT + channel for channel in limb.paf]] = along
    training.keep(tmp_path, "dots.368", np.repeat(pixels[..., None], 3, axis=2), maps)
    near = functools.partial(training.Teacher, DEMO, NEAR, alone=True)
    crops = iter(training.Crops(tmp_path, near, painted=0.0, seed=3))
    mirror = training.MIRRORED
    kinds: Counter[Any] = Counter()
    for image, wanted, _, _, known in itertools.islice(crops, 40):
        heat = wanted.numpy()
        mirrored = not known
        ends = [mirror.index(part) if mirrored else part for part in (start, end)]
        if any(heat[part].max() < 0.8 for part in ends):
            continue  # it lies outside
        found = []
        for part in ends:
            row, column = np.unravel_index(heat[part].argmax(), heat[part].shape)
            found.append(np.array([column, row]) * 8 + 3.5)
            top, left = max(8 * row - 8, 0), max(8 * column - 8, 0)
            dot = image.numpy()[:, top : top + 24, left : left + 24].mean(axis=0)
            assert dot.max() > image.mean() + 0.5
        channels = [training.HEAT + channel for channel in limb.paf]
        channels = [mirror.index(channel) if mirrored else channel for channel in channels]
        column, row = ((found[0] + found[1]) / 2 / 8).astype(int)
        direction = (found[1] - found[0]) / np.linalg.norm(found[1] - found[0])
        assert wanted[channels, row, column].numpy() @ direction > 0.95
        kinds[mirrored] += 1
    assert min(kinds[False], kinds[True]) >= 3
