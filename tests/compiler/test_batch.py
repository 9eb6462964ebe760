"""Networks for several pictures at once become networks for one, or are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from small_networks import MakeProto, Normal
from typer.testing import CliRunner

from graphopt.cli import app
from graphopt.compiler.batch import for_one_picture
from graphopt.errors import Unsupported
from graphopt.fitting.calibration import Calibration
from graphopt.ir.onnx_io import load_model, to_proto
from graphopt.pose.detect import usual_shapes
from graphopt.pose.map_slices import MapSlice
from graphopt.pose.preprocess import arranged, extents, prepare
from graphopt.pose.skeleton import load_skeleton
from graphopt.pose.spec import PoseSpec, Preprocess
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.differences import difference
from graphopt.runtime.engine import OnnxRuntimeEngine


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


CONV = "a = Conv<pads=[1,1,1,1], strides=[4,4]>(x, w)"
FIXED = {
    "nothing but layers": ("float[8,3,32,40] x", "float[8,6,8,10] y", f"{CONV} y = Relu(a)"),
    "a reshape": ("float[8,3,32,40] x", "float[8,480] y", f"{CONV} y = Reshape(a, flat)"),
    "channels shuffled": (
        "float[8,3,32,40] x",
        "float[8,6,8,10] y",
        f"{CONV} p = Reshape(a, apart) t = Transpose<perm=[0,2,1,3,4]>(p) y = Reshape(t, again)",
    ),
    "folded into the batch": (
        "float[8,3,32,40] x",
        "float[48,80] y",
        f"{CONV} y = Reshape(a, many)",
    ),
    "sizes": ("float[8,3,32,40] x", "float[8,6,16,20] y", f"{CONV} y = Resize(a, , , sizes)"),
    "a shape that is computed": (
        "float[8,3,32,40] x",
        "float[8,480] y",
        f"{CONV} s = Shape(a) n = Gather<axis=0>(s, zero) k = Unsqueeze(n, zeros) "
        "c = Concat<axis=0>(k, rest) y = Reshape(a, c)",
    ),
    "a constant node": (
        "float[8,3,32,40] x",
        "float[8,480] y",
        f"{CONV} c = Constant<value_ints=[8,480]>() y = Reshape(a, c)",
    ),
    "channels last": (
        "float[8,32,40,3] x",
        "float[8,8,10,6] y",
        "v = Transpose<perm=[0,3,1,2]>(x) "
        f"{CONV.replace('(x', '(v')} y = Transpose<perm=[0,2,3,1]>(a)",
    ),
    "bytes": (
        "uint8[8,3,32,40] x",
        "float[8,6,8,10] y",
        "f = Cast<to=1>(x) " + CONV.replace("(x", "(f") + " y = Relu(a)",
    ),
    "half": (
        "float16[8,3,32,40] x",
        "float16[8,480] y",
        f"{CONV.replace('w)', 'h)')} y = Reshape(a, flat)",
    ),
}


@pytest.fixture
def normal() -> Normal:
    """Seeded normal weights: normal(4, 3, 3, 3)."""
    rng = np.random.default_rng(7)
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)


def given(normal: Normal) -> dict[str, np.ndarray]:
    weight = normal(6, 3, 3, 3) / 9
    return {
        "w": weight,
        "h": weight.astype(np.float16),
        "flat": ints(8, 480),
        "apart": ints(8, 2, 3, 8, 10),
        "again": ints(8, 6, 8, 10),
        "many": ints(48, 80),
        "sizes": ints(8, 6, 16, 20),
        "zero": np.int64(0),
        "zeros": ints(0),
        "rest": ints(480),
    }


@pytest.mark.parametrize(("inputs", "outputs", "body"), FIXED.values(), ids=FIXED)
def test_a_fixed_batch_is_rewritten_to_one(
    proto: MakeProto, normal: Normal, tmp_path: Path, inputs: str, outputs: str, body: str
) -> None:
    model = proto(inputs, outputs, body, **given(normal))
    onnx.save(model, tmp_path / "m.onnx")
    graph = load_model(tmp_path / "m.onnx")
    single, said = for_one_picture(graph)
    assert said == "the network takes 8 pictures at once: rewritten to take one"
    assert graph.inputs[0].shape[0] == 8  # the given one is as it was
    shape = single.inputs[0].shape
    assert shape == [1, *graph.inputs[0].shape[1:]]
    out = to_proto(single)
    onnx.checker.check_model(out, full_check=True)
    pictures = np.asarray(40 * normal(8, *shape[1:]), graph.inputs[0].dtype)
    if np.issubdtype(pictures.dtype, np.integer):
        pictures = np.abs(40 * normal(8, *shape[1:])).astype(np.uint8)
    whole = OnnxRuntimeEngine(model.SerializeToString()).run({"x": pictures})["y"]
    engine = OnnxRuntimeEngine(out.SerializeToString())
    parts = [engine.run({"x": pictures[i : i + 1]})["y"] for i in range(8)]
    assert parts[0].shape == tuple(single.outputs[0].shape)
    assert difference(np.concatenate(parts), whole) < 1e-5


REFUSED = {
    "pictures are mixed": (
        "float[8,6,8,10] y",
        f"{CONV} m = ReduceMean<axes=[0]>(a) y = Sub(a, m)",
        "depends on the other pictures",
    ),
    "pictures are summed": ("float[1,6,8,10] y", f"{CONV} y = ReduceSum(a, zeros)", "in place of"),
    "a constant for each": ("float[8,6,8,10] y", f"{CONV} y = Add(a, each)", "in place of"),
}


@pytest.mark.parametrize(("outputs", "body", "reason"), REFUSED.values(), ids=REFUSED)
def test_pictures_that_depend_on_each_other(
    proto: MakeProto, normal: Normal, tmp_path: Path, outputs: str, body: str, reason: str
) -> None:
    constants = given(normal) | {"each": normal(8, 6, 1, 1)}
    onnx.save(proto("float[8,3,32,40] x", outputs, body, **constants), tmp_path / "m.onnx")
    with pytest.raises(Unsupported, match=f"takes 8 pictures at once, and cannot .*{reason}"):
        for_one_picture(load_model(tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    ("inputs", "fixed"),
    [
        ("float[N,3,32,40] x", [1, 3, 32, 40]),
        ("float[?,32,40,3] x", [1, 32, 40, 3]),
        ("float[batch,34] x", [1, 34]),
    ],
)
def test_a_batch_that_alone_is_dynamic_is_one(
    proto: MakeProto, tmp_path: Path, inputs: str, fixed: list[int]
) -> None:
    onnx.save(proto(inputs, "float[N,K] y", "y = Flatten(x)"), tmp_path / "m.onnx")
    single, said = for_one_picture(load_model(tmp_path / "m.onnx"))
    assert said == "the batch of x is dynamic: fixed at 1"
    assert single.inputs[0].shape == fixed
    assert single.outputs[0].shape == [1, int(np.prod(fixed))]


@pytest.mark.parametrize("inputs", ["float[1,3,8,8] x", "float[N,3,H,W] x", "float[17,64] x"])
def test_other_networks_are_left_alone(proto: MakeProto, tmp_path: Path, inputs: str) -> None:
    onnx.save(proto(inputs, "float[N,K] y", "y = Flatten(x)"), tmp_path / "m.onnx")
    graph = load_model(tmp_path / "m.onnx")
    assert for_one_picture(graph) == (graph, "")


def test_pictures_as_inputs_take_them(normal: Normal) -> None:
    picture = normal(1, 3, 5, 6)
    assert arranged(picture, (1, 3, 5, 6)).shape == (1, 3, 5, 6)
    assert arranged(picture, (None, 3, None, None)).shape == (1, 3, 5, 6)
    last = arranged(picture, (None, 5, 6, 3))
    assert np.array_equal(last, picture.transpose(0, 2, 3, 1))
    assert last.flags.c_contiguous
    several = arranged(picture, (8, 3, 5, 6))
    assert several.shape == (8, 3, 5, 6)
    assert all(np.array_equal(one, picture[0]) for one in several)
    assert extents((1, 3, 5, 6)) == extents((None, 5, 6, 3)) == (5, 6)
    assert extents((None, None, None, 3)) == (None, None)


LAYOUTS = {
    "channels first": ("float[1,3,48,64] x", (1, 3, 48, 64)),
    "channels last": ("float[1,48,64,3] x", (1, 48, 64, 3)),
    "bytes, channels last": ("uint8[1,48,64,3] x", (1, 48, 64, 3)),
    "several at once": ("float16[4,3,48,64] x", (4, 3, 48, 64)),
}


@pytest.mark.parametrize(("inputs", "shape"), LAYOUTS.values(), ids=LAYOUTS)
def test_photos_are_calibrated_on_in_the_layout_of_the_input(
    proto: MakeProto, tmp_path: Path, inputs: str, shape: tuple[int, int, int, int]
) -> None:
    onnx.save(
        proto(inputs, "float[N,K] y", "f = Cast<to=1>(x) y = Flatten(f)"), tmp_path / "m.onnx"
    )
    graph = load_model(tmp_path / "m.onnx")
    spec = PoseSpec(
        preprocess=Preprocess(color="rgb", mean=(0.0,) * 3, scale=(1.0,) * 3),
        skeleton=load_skeleton("coco18"),
        heat=MapSlice(output="y", count=19),
        paf=MapSlice(output="y", first=19, count=38),
        stride=8,
    )
    calibration = Calibration.synthetic(graph, spec, count=5)
    (feeds,) = calibration.feeds(calibration.held_out[:1])
    fed = feeds["x"]
    assert fed.shape == shape
    assert fed.dtype == graph.inputs[0].dtype
    expected, _ = prepare(calibration.picture(calibration.held_out[0]), spec.preprocess, (48, 64))
    one = fed[0] if shape[1] == 3 else fed[0].transpose(2, 0, 1)
    seen = np.clip(expected[0], 0, 255) if fed.dtype == np.uint8 else expected[0]
    assert np.abs(one.astype(float) - seen).max() <= 0.5
    assert (
        OnnxRuntimeEngine(to_proto(graph).SerializeToString()).run(feeds)["y"].shape[0] == shape[0]
    )


def test_usual_sizes_of_channels_last() -> None:
    tensor = gs.Variable("x", np.float32, ["N", "H", "W", 3])
    spec = PoseSpec(
        preprocess=Preprocess(color="rgb", mean=(0.0,) * 3, scale=(1.0,) * 3, height=256),
        skeleton=load_skeleton("coco18"),
        heat=MapSlice(output="y", count=19),
        paf=MapSlice(output="y", first=19, count=38),
        stride=8,
    )
    _, width = spec.preprocess.usual_size
    assert usual_shapes([tensor], spec) == {"x": (1, 256, width, 3)}


def test_compile_says_what_it_did_to_the_batch(
    proto: MakeProto, normal: Normal, tmp_path: Path
) -> None:
    model = proto(
        "float[4,3,16,16] x",
        "float[4,96] y",
        f"{CONV} y = Reshape(a, to)",
        w=normal(6, 3, 3, 3) / 9,
        to=ints(4, 96),
    )
    onnx.save(model, tmp_path / "m.onnx")
    runner = CliRunner()
    done = runner.invoke(app, ["compile", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "b")])
    assert done.exit_code == 0, done.output
    assert "the network takes 4 pictures at once: rewritten to take one" in done.output
    assert read_bundle(tmp_path / "b").manifest.inputs == {"x": (1, 3, 16, 16)}
