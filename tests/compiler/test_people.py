"""People in a quantised network's maps: steps of quantisation move nobody, faults do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from graphopt.compiler.people import check_people
from graphopt.errors import CheckFailed
from graphopt.ir.arrays import Array, Feeds
from graphopt.ir.conversion import import_message
from graphopt.pose.map_slices import MapSlice
from graphopt.pose.skeleton import load_skeleton
from graphopt.pose.spec import PoseSpec, Preprocess
from graphopt.pose.synthetic import crowd, draw_maps
from graphopt.runtime.engine import OnnxRuntimeEngine

SKELETON = load_skeleton("coco18")
SIZE = (46, 82)
POSE = PoseSpec(
    preprocess=Preprocess(color="bgr", mean=(0, 0, 0), scale=(1, 1, 1)),
    skeleton=SKELETON,
    heat=MapSlice(output="y", first=0, count=18),
    paf=MapSlice(output="y", first=18, count=38),
    stride=8,
)
WRONG: dict[str, tuple[Callable[[Array], Array], bool]] = {
    "the same": (lambda y: y, True),
    "a step here and there": (
        lambda y: y + 0.01 * (np.arange(y.size).reshape(y.shape) % 7 == 3),
        True,
    ),
    "two pixels off": (lambda y: np.roll(y, 2, axis=3), False),
    "a field without its sign": (
        lambda y: np.concatenate([y[:, :18], np.abs(y[:, 18:])], 1),
        False,
    ),
    "nothing in the lower half": (lambda y: y * (np.arange(46) < 23)[:, None], False),
    "no part": (lambda y: y * 0, False),
}


@pytest.mark.parametrize("name", WRONG)
def test_people_are_compared(name: str, proto: Callable[..., onnx.ModelProto]) -> None:
    change, right = WRONG[name]
    model = proto(
        "float[1,56,46,82] x",
        "float[1,56,46,82] y",
        "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)",
        s=np.float32(0.01),
        z=np.uint8(110),
    )
    feeds: list[Feeds] = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        heat, paf = draw_maps(crowd(SKELETON, 4, SIZE, rng), SKELETON, SIZE, noise=0.02, rng=rng)
        feeds.append({"x": np.concatenate([heat[:18], paf])[None].astype(np.float32)})
    engine = OnnxRuntimeEngine(model.SerializeToString())
    outputs = [{"y": change(engine.run(feed)["y"]).astype(np.float32)} for feed in feeds]
    graph = import_message(model)
    if right:
        assert check_people(graph, POSE, feeds, outputs).startswith("0 of 8 people are not where")
        return
    with pytest.raises(CheckFailed, match="people are not where onnxruntime finds them"):
        check_people(graph, POSE, feeds, outputs)


def test_where_nobody_is_nothing_is_said(proto: Callable[..., onnx.ModelProto]) -> None:
    graph = import_message(proto("float[1,56,46,82] x", "float[1,56,46,82] y", "y = Neg(x)"))
    empty = {name: np.zeros((1, 56, 46, 82), np.float32) for name in ("x", "y")}
    assert check_people(graph, POSE, [{"x": empty["x"]}], [{"y": empty["y"]}]) == ""
