"""How a network wants its photos, read out of the network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from graphopt.errors import InputError, Unsupported
from graphopt.pose.detect import detect_pose_spec
from graphopt.pose.estimate import Estimator
from graphopt.pose.map_slices import MapSlice
from graphopt.pose.open import open_engine
from graphopt.pose.skeleton import load_skeleton
from graphopt.pose.spec import (
    HEAT_IMPORTANCE,
    METADATA_KEY,
    PoseSpec,
    Preprocess,
    choices,
    read_pose_spec,
)
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.synthetic_images import natural_photo

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
    assert PoseSpec.from_json(spec.to_json()) == spec


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
    assert said.preprocess == replace(
        said.preprocess, color="rgb", mean=(1, 2, 3), scale=(4, 5, 6), pad_value=7
    )
    assert said.guesses == []
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, said.to_json()
    stored = detect_pose_spec(model, pad_value=9)
    assert stored.preprocess == replace(said.preprocess, pad_value=9.0)
    assert stored.notes["mean"].how == "metadata"
    assert stored.notes["pad_value"].how == "given"


def test_metadata_and_skeletons_that_do_not_fit() -> None:
    model = network({"all": 57})
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, '{"stride": "eight"}'
    with pytest.raises(InputError, match=r"metadata 'graphopt.pose' holds no pose spec: \w+"):
        detect_pose_spec(model)
    entry.value = detect_pose_spec(network({"all": 57})).to_json()
    with pytest.raises(InputError, match="body25 has 25 heat maps, the network 19"):
        detect_pose_spec(model, skeleton="body25")


def test_choices_of_the_command_line() -> None:
    said = choices(mean="128", scale="1/256", color="rgb")
    assert said["mean"] == (128, 128, 128)
    assert said["scale"] == pytest.approx((1 / 256,) * 3)
    assert choices(scale="1/2,1/4,0.1")["scale"] == pytest.approx((0.5, 0.25, 0.1))
    faults: list[dict[str, Any]] = [{"mean": "1,2"}, {"scale": "1/0"}, {"scale": "big"}]
    for wrong in [*faults, {"color": "rbg"}]:
        with pytest.raises(InputError, match=r"--(mean|scale|color)"):
            choices(**wrong)


def test_made_up_photos_are_like_photos() -> None:
    image = natural_photo(128, 160)
    assert image.shape == (3, 128, 160)
    assert abs(image.mean() - 114) < 10
    assert 40 < image.std() < 70
    assert np.asarray(np.corrcoef(image.reshape(3, -1)))[0, 1] > 0.7
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
    importance = spec.importance({"maps": 30, "fields": 38, "other": 4})
    assert np.flatnonzero(importance["maps"]).tolist() == list(range(2, 20))
    assert importance["maps"].sum() == pytest.approx(HEAT_IMPORTANCE)
    assert np.unique(importance["fields"]) == pytest.approx([(1 - HEAT_IMPORTANCE) / 38])
    assert not importance["other"].any()
    single = replace(spec, paf=None)
    assert single.importance({"maps": 30})["maps"].sum() == pytest.approx(1)


def rebuilt(
    body: str,
    outputs: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, Sequence[int]],
    *,
    size: Sequence[int | str] = (64, 64),
    dtype: str = "float",
) -> onnx.ModelProto:
    """A network written as ONNX text, its input `x`, its weights random."""
    rng = np.random.default_rng(0)
    given = ", ".join(f"float[{','.join(map(str, shape))}] {n}" for n, shape in outputs.items())
    rows, columns = size
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> '
        f"g ({dtype}[1,3,{rows},{columns}] x) => ({given}) {{ {body} }}"
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in weights.items()
    )
    return model


HEAD = "f = Conv<strides=[8,8]>(x, w)"
"""Features [1,8,h/8,w/8]."""
FEATURES = {"w": (8, 3, 8, 8)}


def joined(order: str, last: str = "") -> onnx.ModelProto:
    """57 maps that a Concat joins from heat maps `a` and fields `b`."""
    return rebuilt(
        f"{HEAD} a = Conv(f, wa) b = Conv(f, wb) c = Concat<axis=1>({order}) {last or 'y=Relu(c)'}",
        {"y": (1, 57, 8, 8)},
        FEATURES | {"wa": (19, 8, 1, 1), "wb": (38, 8, 1, 1)},
    )


@pytest.mark.parametrize(("count", "name"), [(17, "coco17"), (15, "body14"), (18, "coco18")])
def test_heat_maps_alone_are_a_guess(count: int, name: str) -> None:
    """COCO's 17 key points are no mpii16 with a background, and what is read is not certain."""
    spec = detect_pose_spec(network({"y": count}))
    assert (spec.skeleton.name, spec.heat.count, spec.paf) == (name, count, None)
    assert {spec.notes[part].how for part in ("skeleton", "decoder")} == {"guessed"}
    (line,) = [guess for guess in spec.guesses if "skeleton" in guess]
    assert f"skeleton {name}, decoder for one person ({count} heat maps and no PAFs" in line
    assert "change it with --skeleton, --maps" in line
    said = detect_pose_spec(network({"y": count}), skeleton=name, maps="heat=y")
    assert not [guess for guess in said.guesses if "skeleton" in guess or "decoder" in guess]


def test_a_guess_names_what_else_it_could_be() -> None:
    (line,) = [g for g in detect_pose_spec(network({"y": 17})).guesses if "skeleton" in g]
    assert "mpii16 with a background" in line


@pytest.mark.parametrize(
    ("heads", "left"),
    [
        ({"heat": 17, "tags": 34}, "tags (34 channels)"),  # HigherHRNet
        ({"heat": 17, "tags": 17}, "heat (17 channels)"),  # tags as many as heat maps
        ({"heat": 17, "short": 34, "mid": 64}, "short (34 channels), mid (64 channels)"),
        ({"cmap": 18, "paf": 42}, "paf (42 channels)"),  # trt_pose
        ({"heat": 19, "paf": 38, "mask": 1}, "mask (1 channels)"),
    ],
)
def test_maps_that_would_stay_unused_are_refused(heads: Mapping[str, int], left: str) -> None:
    with pytest.raises(InputError) as refused:
        detect_pose_spec(network(heads))
    assert f"would leave {left} unused" in refused.value.message
    flag = (refused.value.hint or "").partition("--maps ")[2].strip("'")
    assert flag.startswith(f"heat={next(iter(heads))}") or "17]" in flag
    assert detect_pose_spec(network(heads), maps=flag).notes["maps"].how == "given"


def test_earlier_stages_and_spare_outputs_are_not_missed() -> None:
    """A stage that the last one is computed from; a coarser one; EfficientPose's fields."""
    chained = rebuilt(
        f"{HEAD} h = Conv(f, w1) y = Conv(h, w2)",
        {"h": (1, 16, 8, 8), "y": (1, 16, 8, 8)},
        FEATURES | {"w1": (16, 8, 1, 1), "w2": (16, 16, 1, 1)},
    )
    assert detect_pose_spec(chained).heat.output == "y"
    coarser = rebuilt(
        f"{HEAD} h = Conv(f, w1) p = Conv(f, w2) y = ConvTranspose<strides=[2,2]>(f, w3)",
        {"h": (1, 16, 8, 8), "p": (1, 28, 8, 8), "y": (1, 16, 16, 16)},
        FEATURES | {"w1": (16, 8, 1, 1), "w2": (28, 8, 1, 1), "w3": (8, 16, 2, 2)},
    )
    assert detect_pose_spec(coarser).heat.output == "y"


def test_one_output_of_heat_maps_and_fields_is_read_in_its_order() -> None:
    first = detect_pose_spec(joined("a, b"))
    assert (first.heat.first, first.paf and first.paf.first) == (0, 19)
    last = detect_pose_spec(joined("b, a"))
    assert (last.heat.first, last.paf and last.paf.first) == (38, 0)
    assert first.notes["maps"].how == last.notes["maps"].how == "detected"
    unknown = detect_pose_spec(network({"all": 57}))
    assert unknown.notes["maps"].how == "guessed"
    (line,) = [guess for guess in unknown.guesses if "--maps" in guess]
    assert "maps heat=all[0:19], paf=all[19:57]" in line
    other = detect_pose_spec(network({"all": 57}), maps="heat=all[38:57],paf=all[0:38]")
    assert (other.heat.first, other.paf and other.paf.first) == (38, 0)
    assert "--maps" not in "".join(other.guesses)


def test_maps_that_are_there_twice() -> None:
    """Joined ones besides separate ones: the same if nothing but joined, else two ways."""
    with pytest.raises(InputError, match=r"can be read in 2 ways[\s\S]*--maps 'heat=a\[0:19\]"):
        detect_pose_spec(network({"a": 19, "b": 38, "all": 57}))
    model = joined("b, a", "y = Identity(c)")
    shapes = {"a": 19, "b": 38, "c": 57}
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count, 8, 8])
        for name, count in shapes.items()
    )
    spec = detect_pose_spec(model)
    assert (spec.heat.output, spec.paf and spec.paf.output) == ("a", "b")


def last_channels(size: tuple[int, int], order: str = "a, b") -> onnx.ModelProto:
    rows, columns = (extent // 8 for extent in size)
    return rebuilt(
        f"{HEAD} a = Conv(f, wa) b = Conv(f, wb) c = Concat<axis=1>({order}) "
        "y = Transpose<perm=[0,2,3,1]>(c)",
        {"y": (1, rows, columns, 57)},
        FEATURES | {"wa": (19, 8, 1, 1), "wb": (38, 8, 1, 1)},
        size=size,
    )


@pytest.mark.parametrize("size", [(64, 64), (152, 152), (152, 456), (96, 64)])
def test_maps_whose_channels_come_last(size: tuple[int, int]) -> None:
    """19 rows of 57 columns, or of 19 columns and 57 channels? The graph says."""
    model = last_channels(size)
    spec = detect_pose_spec(model)
    assert (spec.heat.layout, spec.heat.count, spec.stride) == ("nhwc", 19, 8)
    outputs = {"y": np.random.default_rng(0).random((1, 8, 9, 57), np.float32)}
    assert np.array_equal(spec.heat.of(outputs), outputs["y"][0].transpose(2, 0, 1)[:19])
    assert spec.paf is not None
    assert np.array_equal(spec.paf.of(outputs), outputs["y"][0].transpose(2, 0, 1)[19:])
    assert PoseSpec.from_json(spec.to_json()) == spec
    assert spec.notes["maps"].how == "detected"
    other = detect_pose_spec(last_channels(size, "b, a"))
    assert (other.heat.first, other.heat.layout) == (38, "nhwc")
    with pytest.raises(Unsupported, match="channels come last in y"):
        spec.importance({"y": 57})


def test_a_shape_that_reads_both_ways_is_refused() -> None:
    """17 maps of 17 x 17, behind an operator that does not tell."""
    model = rebuilt(
        f"{HEAD} y = Einsum<equation='nchw->nchw'>(f)".replace("'", '"'),
        {"y": (1, 17, 17, 17)},
        {"w": (17, 3, 8, 8)},
        size=(136, 136),
    )
    with pytest.raises(InputError, match=r"reads both ways[\s\S]*--maps heat=y:nchw or :nhwc"):
        detect_pose_spec(model)
    for layout in ("nchw", "nhwc"):
        assert detect_pose_spec(model, maps=f"heat=y:{layout}").heat.layout == layout


def test_what_maps_may_say() -> None:
    """Names of exporters have colons, slashes and brackets."""
    heads = {"Openpose/concat:0": 19, "b[0:1]": 38, "c,d": 19}
    spec = detect_pose_spec(network(heads), maps="heat=Openpose/concat:0,paf=b[0:1]")
    assert (spec.heat.output, spec.paf and spec.paf.output) == ("Openpose/concat:0", "b[0:1]")
    spec = detect_pose_spec(network(heads), maps="heat=c,d[0:18]:nchw")
    assert (spec.heat.output, spec.heat.count, spec.paf) == ("c,d", 18, None)
    for wrong, complaint in {
        "y": "not heat=NAME",
        "paf=b[0:1]": "without heat maps",
        "heat=a,heat=b": "not heat=NAME",
        "heat=": "not heat=NAME",
    }.items():
        with pytest.raises(InputError, match=complaint):
            choices(maps=wrong)
    for wrong, complaint in {
        "heat=nose": "no output with maps[\\s\\S]*there are: Openpose/concat:0 .19 channels",
        "heat=c,d[0:40]": "no such channels",
        "heat=c,d[3:3]": "no such channels",
        "heat=c,d[0:5]": "5 heat maps and 0 PAF channels fit no skeleton",
        "heat=Openpose/concat:0,paf=c,d": "19 heat maps and 19 PAF channels fit no skeleton",
        "heat=Openpose/concat:0[0:19],paf=Openpose/concat:0[18:19]": "channels in common",
    }.items():
        with pytest.raises(InputError, match=complaint):
            detect_pose_spec(network(heads), maps=wrong)
    with pytest.raises(InputError, match="skeleton body25 has 25 heat maps, the network 19"):
        detect_pose_spec(network(heads), maps="heat=c,d", skeleton="body25")


def test_maps_of_two_sizes_are_refused() -> None:
    model = rebuilt(
        f"{HEAD} y = Conv(f, wa) z = ConvTranspose<strides=[2,2]>(f, wb)",
        {"y": (1, 19, 8, 8), "z": (1, 38, 16, 16)},
        FEATURES | {"wa": (19, 8, 1, 1), "wb": (8, 38, 2, 2)},
    )
    with pytest.raises(Unsupported, match="differ in size"):
        detect_pose_spec(model)


@pytest.mark.parametrize("up", [2, 4])
def test_maps_larger_than_the_input_are_a_sentence(up: int) -> None:
    model = rebuilt(
        f"a = ConvTranspose<strides=[{up},{up}]>(x, w) y = Conv(a, wa) z = Conv(a, wb)",
        {"y": (1, 19, 16 * up, 16 * up), "z": (1, 38, 16 * up, 16 * up)},
        {"w": (3, 8, up, up), "wa": (19, 8, 1, 1), "wb": (38, 8, 1, 1)},
        size=(16, 16),
    )
    with pytest.raises(Unsupported, match=f"{16 * up}x{16 * up} are larger than the input of 16x1"):
        detect_pose_spec(model)


def hourglass(stacks: int, up: str) -> onnx.ModelProto:
    """Stacked hourglasses: four rows become one, eight of those again, and come back."""
    blocks = " ".join(
        f"p{k} = MaxPool<kernel_shape=[8,8], strides=[8,8]>(t{k}) {up.format(k=k)} "
        f"t{k + 1} = Add(u{k}, t{k})"
        for k in range(stacks)
    )
    model = rebuilt(
        f"t0 = Conv<strides=[4,4]>(x, w) {blocks} y = Conv(t{stacks}, wa) z = Conv(t{stacks}, wb)",
        {"y": (1, 19, "h", "v"), "z": (1, 38, "h", "v")},
        {"w": (8, 3, 4, 4), "wa": (19, 8, 1, 1), "wb": (38, 8, 1, 1)},
        size=("H", "W"),
    )
    scales = numpy_helper.from_array(np.array([1, 1, 8, 8], np.float32), "s")
    model.graph.initializer.append(scales)
    model.graph.initializer.append(
        numpy_helper.from_array(np.zeros((8, 8, 8, 8), np.float32), "wu")
    )
    return model


@pytest.mark.parametrize("stacks", [1, 2, 8])
@pytest.mark.parametrize(
    "up",
    [
        'u{k} = Resize<mode="nearest">(p{k}, , s)',
        'n{k} = Shape(t{k}) u{k} = Resize<mode="nearest">(p{k}, , , n{k})',
        "u{k} = ConvTranspose<strides=[8,8]>(p{k}, wu)",
    ],
)
def test_sizes_of_stacked_hourglasses(stacks: int, up: str) -> None:
    """However many there are, and however they come back up: 4 times 8."""
    assert detect_pose_spec(hourglass(stacks, up)).preprocess.multiple == 32


def test_sizes_through_space_to_depth() -> None:
    model = rebuilt(
        "d = SpaceToDepth<blocksize=2>(x) f = Conv<strides=[4,4]>(d, w) y = Conv(f, wa)",
        {"y": (1, 16, 8, 8)},
        {"w": (8, 12, 4, 4), "wa": (16, 8, 1, 1)},
    )
    assert detect_pose_spec(model).preprocess.multiple == 8


TYPES = {"uint8": (0.0, 0.0), "int8": (128.0, 128.0), "float16": (None, None)}


@pytest.mark.parametrize("dtype", TYPES)
def test_inputs_of_other_types(dtype: str, tmp_path: Path) -> None:
    """8-bit pixels go in as they are; a photo runs, through the public way, too."""
    model = rebuilt(
        "f = Cast<to=1>(x) g = Mul(f, small) y = Conv<strides=[8,8]>(g, wa) "
        "z = Conv<strides=[8,8]>(g, wb)",
        {"y": (1, 19, 8, 8), "z": (1, 38, 8, 8)},
        {"wa": (19, 3, 8, 8), "wb": (38, 3, 8, 8)},
        dtype=dtype,
    )
    model.graph.initializer.append(
        numpy_helper.from_array(np.array([1 / 255], np.float32), "small")
    )
    spec = detect_pose_spec(model)
    mean = TYPES[dtype][0]
    if mean is not None:
        assert spec.preprocess.mean == (mean,) * 3
        assert spec.preprocess.scale == (1.0,) * 3
        assert spec.notes["mean"].how == spec.notes["scale"].how == "detected"
        assert dtype in spec.notes["mean"].why
    onnx.save(model, tmp_path / "net.onnx")
    engine, spec = open_engine(tmp_path / "net.onnx")
    photo = Image.fromarray(natural_photo(80, 60).astype(np.uint8).transpose(1, 2, 0))
    Estimator(engine, spec)(photo)


def test_feeds_take_the_inputs_type() -> None:
    model = rebuilt("y = Cast<to=1>(x)", {"y": (1, 3, 1, 2)}, {}, size=(1, 2), dtype="uint8")
    engine = OnnxRuntimeEngine(model.SerializeToString())
    given = np.array([127.5, 300, -3, 1.4, 1.6, 0], np.float32).reshape(1, 3, 1, 2)
    assert engine.run({"x": given})["y"].ravel().tolist() == [128, 255, 0, 1, 2, 0]
    # Whole numbers are not reinterpreted: a wrong type is still refused.
    with pytest.raises(InputError, match="onnxruntime failed"):
        engine.run({"x": given.astype(np.int64)})


@pytest.mark.parametrize(
    ("factor", "offset", "top", "how"),
    [
        (1 / 255, 0.0, 255, "detected"),
        (2.0, -1.0, 1, "detected"),
        (4.4, -2.1, 1, "detected"),
        (1.0, -0.5, 1, "detected"),
        (2 / 255, -1.0, 255, "detected"),
        (1.0, -117.0, 255, "detected"),
        (2.0, 0.0, 1, "detected"),
        (0.05, 0.0, 255, "guessed"),
        (1.0, 3.0, 255, "guessed"),
    ],
)
def test_pixels_of_255_or_of_1(factor: float, offset: float, top: int, how: str) -> None:
    """What a head centres, or brings to about one; where it does neither, that is a guess."""
    model = network(
        {"a": 19, "b": 38},
        before=[node("Mul", "image", "f", output="t"), node("Add", "t", "o")],
        constants={"f": [factor], "o": [offset]},
    )
    spec = detect_pose_spec(model)
    assert spec.notes["scale"].how == spec.notes["mean"].how == how
    if how == "detected":
        assert spec.preprocess.scale == pytest.approx((top / 255,) * 3)
    else:
        assert any("--scale" in guess and "neither" in guess for guess in spec.guesses)


def test_metadata_of_maps_that_are_not_there() -> None:
    """It is refused before it is compiled; --maps reads another output in its place."""
    said = detect_pose_spec(network({"a": 19, "b": 38}))
    for heads in ({"a": 19, "c": 38}, {"a": 19, "b": 20}):
        model = network(heads)
        model.metadata_props.add(key=METADATA_KEY, value=said.to_json())
        with pytest.raises(InputError, match=r"metadata 'graphopt.pose' reads b\[0:38\]"):
            detect_pose_spec(model)
    model = network({"a": 19, "c": 38})
    model.metadata_props.add(key=METADATA_KEY, value=said.to_json())
    assert detect_pose_spec(model, maps="heat=a,paf=c").paf == MapSlice(output="c", count=38)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("stride",), 0),
        (("stride",), "eight"),
        (("heat", "layout"), "chwn"),
        (("heat", "count"), 3),
        (("preprocess", "mean"), [1, 2]),
        (("preprocess", "scale"), [float("nan")] * 3),
        (("preprocess", "pad_value"), float("inf")),
        (("skeleton", "parts"), []),
        (("skeleton", "spare"), "none"),
        (("notes",), {"color": "guessed"}),
        (("surprise",), 1),
    ],
)
def test_damaged_pose_specs_are_a_sentence(
    where: tuple[str, ...], value: object, tmp_path: Path
) -> None:
    file = tmp_path / "pose.json"
    spec = detect_pose_spec(network({"a": 19, "b": 38})).to_plain()
    part = spec
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    file.write_text(json.dumps(spec))
    with pytest.raises(InputError, match=r"pose\.json holds no pose spec: "):
        read_pose_spec(file)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{" * 100_000])
def test_pose_specs_that_are_no_json(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "pose.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"pose\.json"):
        read_pose_spec(file)


def test_numbers_that_are_none() -> None:
    for wrong in ("nan", "inf", "1,nan,2", "1/inf/0"):
        with pytest.raises(InputError, match="--mean"):
            choices(mean=wrong)
    with pytest.raises(InputError, match="pad_value"):
        detect_pose_spec(network({"a": 19, "b": 38}), pad_value=float("nan"))
