"""How a network wants its photos, read out of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.engine import OnnxRuntimeEngine, open_engine
from graphopt.errors import InputError, Unsupported
from graphopt.fitting.natural import natural_photo
from graphopt.pose.skeleton import load_skeleton
from graphopt.pose.spec import (
    HEAT_WORTH,
    METADATA_KEY,
    MapSlice,
    PoseSpec,
    Preprocess,
    choices,
    detect_pose_spec,
)

IMAGENET = (1 / 58.395, 1 / 57.12, 1 / 57.375)


def network(
    heads: Mapping[str, int],
    *,
    before: Sequence[onnx.NodeProto] = (),
    constants: Mapping[str, Sequence[float]] = {},
    response: float = 1.0,
    shape: Sequence[int | str] = (1, 3, "H", "W"),
    strides: Sequence[int] = (2, 2, 2),
) -> onnx.ModelProto:
    """Strided convolutions with a 1x1 head each; the first answers unit noise with `response`.

    `before` are nodes from `image` to `normal`.
    """
    rng = np.random.default_rng(1)
    first = "normal" if before else "image"
    nodes = list(before)
    tensors = {
        name: np.array(value, np.float32).reshape(-1, 1, 1) for name, value in constants.items()
    }
    channels = 3
    for i, stride in enumerate(strides):
        scale = response / np.sqrt(3) if i == 0 else 0.1
        tensors[f"w{i}"] = (scale * rng.standard_normal((8, channels, 1, 1))).astype(np.float32)
        nodes.append(
            helper.make_node("Conv", [first, f"w{i}"], [f"c{i}"], strides=[stride, stride])
        )
        first, channels = f"c{i}", 8
    for name, count in heads.items():
        tensors[f"w_{name}"] = rng.standard_normal((count, 8, 1, 1)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [first, f"w_{name}"], [name]))
    graph = helper.make_graph(
        nodes,
        "pose",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count, "h", "w"])
            for name, count in heads.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize(
    ("heads", "name", "heat", "paf"),
    [
        ({"a": 38, "b": 19}, "coco18", ("b", 0, 19), ("a", 0, 38)),
        ({"p1": 38, "h1": 19, "p2": 38, "h2": 19}, "coco18", ("h2", 0, 19), ("p2", 0, 38)),
        ({"all": 57}, "coco18", ("all", 0, 19), ("all", 19, 38)),
        ({"h": 26, "p": 52}, "body25", ("h", 0, 26), ("p", 0, 52)),
        ({"all": 78}, "body25", ("all", 0, 26), ("all", 26, 52)),
        ({"h": 16}, "mpii16", ("h", 0, 16), None),
        ({"h": 18, "p": 38}, "coco18", ("h", 0, 18), ("p", 0, 38)),
    ],
)
def test_maps_are_found_by_their_channels(
    heads: Mapping[str, int],
    name: str,
    heat: tuple[str, int, int],
    paf: tuple[str, int, int] | None,
) -> None:
    spec = detect_pose_spec(network(heads))
    assert spec.skeleton.name == name
    assert (spec.heat.output, spec.heat.first, spec.heat.count) == heat
    assert (spec.paf and (spec.paf.output, spec.paf.first, spec.paf.count)) == paf
    assert spec.stride == 8
    assert PoseSpec.model_validate_json(spec.model_dump_json()) == spec


def test_stride_and_multiple() -> None:
    spec = detect_pose_spec(network({"all": 57}, strides=(2, 2)))
    assert (spec.stride, spec.preprocess.multiple) == (4, 4)
    assert spec.preprocess.height == 368
    fixed = detect_pose_spec(network({"all": 57}, shape=(1, 3, 64, 96)))
    assert fixed.preprocess.height == 64


def test_outputs_that_fit_nothing_name_the_flag(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"h \(13 channels\)[\s\S]*--skeleton"):
        detect_pose_spec(network({"h": 13}))
    file = tmp_path / "fourteen.toml"
    parts = ", ".join(f'{{ name = "p{i}" }}' for i in range(13))
    file.write_text(f'name = "fourteen"\nparts = [{parts}]\n')
    spec = detect_pose_spec(network({"h": 13}), skeleton=file)
    assert (spec.skeleton.name, spec.paf) == ("fourteen", None)
    assert spec.notes["skeleton"].how == "given"


@pytest.mark.parametrize("shape", [(1, 4, 64, 64), (1, 64, 64, 3), (1, 3)])
def test_inputs_that_are_no_photo(shape: tuple[int, ...]) -> None:
    model = network({"all": 57})
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    for extent in shape:
        model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = extent
    with pytest.raises(Unsupported, match=r"\[N,3,H,W\]"):
        detect_pose_spec(model)


def node(kind: str, *inputs: str, output: str = "normal") -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output])


@pytest.mark.parametrize(
    ("before", "constants", "scale", "pad", "color"),
    [
        (
            [node("Mul", "image", "a", output="t"), node("Sub", "t", "b")],
            {"a": [1 / 255], "b": [0.5]},
            1.0,
            127.5,
            "bgr",
        ),
        (
            [node("Sub", "image", "b", output="t"), node("Div", "t", "a")],
            {"b": [0.485, 0.456, 0.406], "a": [0.229, 0.224, 0.225]},
            1 / 255,
            114.5,
            "rgb",
        ),
        ([node("Sub", "image", "b")], {"b": [103.9, 116.8, 123.7]}, 1.0, 114.8, "bgr"),
        (
            [node("BatchNormalization", "image", "one", "nil", "mean", "var")],
            {"one": [1] * 3, "nil": [0] * 3, "mean": [120] * 3, "var": [3600] * 3},
            1.0,
            120.0,
            "bgr",
        ),
    ],
)
def test_normalisation_inside_the_graph(
    before: Sequence[onnx.NodeProto],
    constants: Mapping[str, Sequence[float]],
    scale: float,
    pad: float,
    color: str,
) -> None:
    model = network({"all": 57}, before=before, constants=constants)
    for tensor in model.graph.initializer:
        if before[0].op_type == "BatchNormalization" and tensor.name in constants:
            del tensor.dims[1:]
    spec = detect_pose_spec(model)
    assert spec.preprocess.mean == (0, 0, 0)
    assert spec.preprocess.scale == pytest.approx((scale,) * 3)
    assert spec.preprocess.pad_value == pytest.approx(pad, abs=0.1)
    assert spec.preprocess.color == color
    assert spec.notes["mean"].how == "detected"


@pytest.mark.parametrize(
    ("response", "heads", "color", "scale"),
    [
        (1 / 58, {"all": 57}, "bgr", (1, 1, 1)),
        (1.0, {"all": 57}, "bgr", (1 / 256,) * 3),
        (1.0, {"h": 16}, "rgb", IMAGENET),
    ],
)
def test_normalisation_that_must_be_guessed(
    response: float, heads: Mapping[str, int], color: str, scale: tuple[float, ...]
) -> None:
    spec = detect_pose_spec(network(heads, response=response))
    assert spec.preprocess.color == color
    assert spec.preprocess.scale == pytest.approx(scale)
    assert spec.notes["scale"].how == "guessed"
    line, others = spec.guesses
    assert "change it with --color, --mean, --scale, --pad-value" in line
    assert "--pad-value" not in others


def test_what_the_caller_says_wins_over_guesses_and_metadata() -> None:
    model = network({"all": 57})
    said = detect_pose_spec(
        model,
        color="rgb",
        mean=(1, 2, 3),
        scale=(4, 5, 6),
        pad_value=7,
        maps="heat=all[0:19],paf=all[19:57]",
    )
    assert said.preprocess.model_dump(include={"color", "mean", "scale", "pad_value"}) == {
        "color": "rgb",
        "mean": (1, 2, 3),
        "scale": (4, 5, 6),
        "pad_value": 7,
    }
    assert said.guesses == []
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, said.model_dump_json()
    stored = detect_pose_spec(model, pad_value=9)
    assert stored.preprocess == said.preprocess.model_copy(update={"pad_value": 9.0})
    assert stored.notes["mean"].how == "metadata"
    assert stored.notes["pad_value"].how == "given"


def test_metadata_and_skeletons_that_do_not_fit() -> None:
    model = network({"all": 57})
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, '{"stride": "eight"}'
    with pytest.raises(InputError, match=r"metadata 'graphopt.pose' holds no pose spec: \w+"):
        detect_pose_spec(model)
    entry.value = detect_pose_spec(network({"all": 57})).model_dump_json()
    with pytest.raises(InputError, match="body25 has 25 heat maps, the network 19"):
        detect_pose_spec(model, skeleton="body25")


def test_choices_of_the_command_line() -> None:
    said = choices(mean="128", scale="1/256", color="rgb")
    assert said["mean"] == (128, 128, 128)
    assert said["scale"] == pytest.approx((1 / 256,) * 3)
    assert choices(scale="1/2,1/4,0.1")["scale"] == pytest.approx((0.5, 0.25, 0.1))
    for wrong in ({"mean": "1,2"}, {"scale": "1/0"}, {"scale": "big"}, {"color": "rbg"}):
        with pytest.raises(InputError, match=r"--(mean|scale|color)"):
            choices(**wrong)


def test_made_up_photos_are_like_photos() -> None:
    image = natural_photo(128, 160)
    assert image.shape == (3, 128, 160)
    assert abs(image.mean() - 114) < 10
    assert 40 < image.std() < 70
    assert np.corrcoef(image.reshape(3, -1))[0, 1] > 0.7
    assert np.corrcoef(image[0, :, 1:].ravel(), image[0, :, :-1].ravel())[0, 1] > 0.7
    assert (image == natural_photo(128, 160)).all()


def test_opening_an_onnx_file(tmp_path: Path) -> None:
    file = tmp_path / "pose.onnx"
    onnx.save(network({"all": 57}), file)
    engine, spec = open_engine(file, skeleton="coco18")
    assert isinstance(engine, OnnxRuntimeEngine)
    assert spec.notes["skeleton"].how == "given"
    with pytest.raises(InputError, match=r"graphopt compile .*pose.onnx"):
        open_engine(file, engine="graphopt")
    with pytest.raises(InputError, match="no engine 'tvm'"):
        open_engine(file, engine="tvm")
    with pytest.raises(InputError, match="does not exist"):
        open_engine(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="is not a bundle"):
        open_engine(tmp_path)


@pytest.mark.assets
def test_trained_networks(lwop: Path, tfpose: Path, efficientpose: Path) -> None:
    spec = detect_pose_spec(lwop)
    assert (spec.skeleton.name, spec.stride, spec.preprocess.multiple) == ("coco18", 8, 8)
    assert spec.preprocess.pad_value == pytest.approx(128, abs=0.1)
    assert spec.notes["scale"].how == "detected"

    spec = detect_pose_spec(tfpose)
    assert (spec.preprocess.color, spec.preprocess.scale) == ("bgr", (1, 1, 1))
    assert (spec.preprocess.pad_value, spec.preprocess.multiple) == (0, 16)
    assert spec.paf is not None
    assert spec.paf.first == 19

    spec = detect_pose_spec(efficientpose)
    assert (spec.skeleton.name, spec.stride, spec.paf) == ("mpii16", 1, None)
    assert spec.heat.output.startswith("upscaled_confs")
    assert spec.preprocess.color == "rgb"
    assert spec.preprocess.scale == pytest.approx(IMAGENET)


@pytest.mark.assets
def test_a_pose_machine_of_one_person(assets: Path) -> None:
    spec = detect_pose_spec(assets / "models" / "cpm_mv2_192_7x7dw.onnx")
    assert (spec.skeleton.name, spec.stride, spec.paf) == ("body14", 2, None)
    assert spec.preprocess.scale == (1.0, 1.0, 1.0)


def test_what_errors_are_worth() -> None:
    """Parts' heat maps so much, PAFs the rest, whatever else an output holds nothing."""
    coco18 = load_skeleton("coco18")
    spec = PoseSpec(
        preprocess=Preprocess(color="bgr", mean=(0, 0, 0), scale=(1, 1, 1)),
        skeleton=coco18,
        heat=MapSlice(output="maps", first=2, count=19),
        paf=MapSlice(output="fields", count=38),
        stride=8,
    )
    worth = spec.worth({"maps": 30, "fields": 38, "other": 4})
    assert np.flatnonzero(worth["maps"]).tolist() == list(range(2, 20))
    assert worth["maps"].sum() == pytest.approx(HEAT_WORTH)
    assert np.unique(worth["fields"]) == pytest.approx([(1 - HEAT_WORTH) / 38])
    assert not worth["other"].any()
    single = spec.model_copy(update={"paf": None})
    assert single.worth({"maps": 30})["maps"].sum() == pytest.approx(1)
