"""Networks of every head, from a photo to people: `run`, bundles, `heads`, `--raw`, `--boxes`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from head_networks import network, saved
from onnx import TensorProto
from PIL import Image
from typer.testing import CliRunner

from graphopt.cli import app
from graphopt.errors import InputError
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.estimate import Estimator
from graphopt.pose.head_choice import parse_spec
from graphopt.pose.model import load
from graphopt.pose.open import open_any, open_engine


def outputs_of(head: str) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Outputs for an input of 64x64 in which there is somebody, at (16, 32) for all parts."""
    point = np.array([16, 32, 0.9])
    if head == "movenet":
        found = {"o": np.tile([0.5, 0.25, 0.9], (1, 1, 17, 1))}
    elif head == "yolo":
        rows = np.zeros((84, 56))
        rows[5] = [16, 32, 20, 40, 0.8, *np.tile(point, 17)]
        found = {"o": rows.T[None]}
    elif head == "yolo-end-to-end":
        ends = np.zeros((1, 300, 57))
        ends[0, 0] = [6, 12, 26, 52, 0.8, 0, *np.tile(point, 17)]
        found = {"o": ends}
    elif head == "rtmo":
        found = {
            "dets": np.array([[[6, 12, 26, 52, 0.8]]]),
            "keypoints": np.tile(point, (1, 1, 17, 1)),
        }
    elif head == "coordinates":
        rows = np.tile([16, 32, 0, np.log(9), 0], (39, 1))
        found = {"points": rows.reshape(1, 195), "flag": np.array([[0.9]])}
    elif head == "personlab":
        maps = {"heat": 17, "offsets": 34, "fwd": 32, "bwd": 32}
        found = {name: np.zeros((1, 5, 5, channels)) for name, channels in maps.items()}
        found["heat"][0, 2, 1] = 0.9
    elif head == "associative-embedding":
        found = {"coarse": np.zeros((1, 34, 16, 16)), "fine": np.zeros((1, 17, 32, 32))}
        found["coarse"][0, :17, 8, 4] = 1.2  # doubled: 0.75 * 0.75 of it
        found["fine"][0, :, 16, 8] = 1.8 - 1.2 * 0.75**2
    else:
        x, y = np.zeros((1, 17, 128)), np.zeros((1, 17, 128))
        x[..., 32], y[..., 64] = 0.9, 0.9
        found = {"x": x, "y": y}
    return {name: value.astype(np.float32) for name, value in found.items()}


HEADS = ("movenet", "yolo", "yolo-end-to-end", "rtmo", "simcc")
OTHERS = ("coordinates", "personlab", "associative-embedding")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def graphopt(*words: object) -> Any:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("head", [*HEADS, *OTHERS])
def test_run(head: str, tmp_path: Path, photo: Path) -> None:
    model = saved(tmp_path / "net.onnx", outputs_of(head))
    graphopt("run", model, photo, "--json", tmp_path / "found.json", "-o", tmp_path / "found.png")
    ((person,),) = [photo["people"] for photo in json.loads((tmp_path / "found.json").read_text())]
    x, y, score = np.array(person["keypoints"]).T
    assert score == pytest.approx(0.9, abs=1e-3)
    if head == "simcc":  # the photo is 1/1.25 of the input
        assert x == pytest.approx(np.full(17, (16.5 * 1.25) - 0.5 - 8), abs=0.01)
    else:
        # Coordinates of maps are those of the pixel that is greatest.
        within = 1 if head == "associative-embedding" else 0.01
        np.testing.assert_allclose(x, np.full(len(x), 16), atol=within)
        np.testing.assert_allclose(y, np.full(len(y), 32), atol=within)
    said = graphopt("heads", model).stdout
    assert said.startswith(f"{head}:")
    plain = json.loads(graphopt("heads", model, "--json").stdout)
    assert plain["head"] == head


@pytest.mark.parametrize("head", ["yolo", "simcc"])
def test_a_bundle_has_the_network_compiled_and_the_head_beside_it(
    head: str, tmp_path: Path, photo: Path
) -> None:
    model = saved(tmp_path / "net.onnx", outputs_of(head))
    graphopt("compile", model, "-o", tmp_path / "b", "--target", "cpu")
    opened, spec = open_any(tmp_path / "b")
    assert parse_spec((tmp_path / "b" / "pose.json").read_text(), where="it") == spec
    _, known = open_any(model)
    assert spec == known
    with Image.open(photo) as picture:
        got = Estimator(opened, spec)(picture.convert("RGB"))
        expected = Estimator(*open_any(model))(picture.convert("RGB"))
    assert len(got.people) == len(expected.people) == 1
    np.testing.assert_allclose(got.people[0].keypoints, expected.people[0].keypoints, atol=1e-3)
    with pytest.raises(InputError, match="skeleton mpii16 has 16 parts, the network 17"):
        open_any(tmp_path / "b", skeleton="mpii16")
    with pytest.raises(InputError, match="has the head"):
        open_engine(tmp_path / "b")


def test_whole_numbers_with_channels_last_are_taken(tmp_path: Path, photo: Path) -> None:
    shape = (1, 64, 64, 3)
    onnx.save(network(outputs_of("movenet"), shape, TensorProto.INT32), tmp_path / "net.onnx")
    opened, spec = open_any(tmp_path / "net.onnx")
    assert spec.notes["scale"].how == "detected"
    with Image.open(photo) as picture:
        (person,) = Estimator(opened, spec, DecodeOptions())(picture.convert("RGB")).people
    assert person.keypoints[0, :2] == pytest.approx((16, 32))


def test_boxes(tmp_path: Path, photo: Path) -> None:
    model = saved(tmp_path / "net.onnx", outputs_of("simcc"))
    boxes = {"photo.png": [[0, 0, 32, 32], [40, 20, 16, 8]]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    out = graphopt("run", model, photo, "--boxes", tmp_path / "boxes.json", "--json").stdout
    first, second = json.loads(out)[0]["people"]
    # The box's middle is the input's; the input is 1.25 times the box's longer side.
    corner, scale = 16 - 20, 40 / 64
    assert first["keypoints"][0][:2] == pytest.approx([corner + 16.5 * scale - 0.5, 16], abs=0.51)
    assert second["keypoints"][0][:2] == pytest.approx([48 - 10 + 5, 24], abs=0.51)
    (tmp_path / "boxes.json").write_text('{"photo.png": [[0, 0, -1, 2]]}')
    with pytest.raises(InputError, match="holds no boxes"):
        CliRunner().invoke(
            app,
            ["run", str(model), str(photo), "--boxes", str(tmp_path / "boxes.json")],
            catch_exceptions=False,
        )


def test_raw_outputs_of_any_network(tmp_path: Path, photo: Path) -> None:
    outputs = {"o": np.arange(77, dtype=np.float32).reshape(1, 7, 11)}
    model = saved(tmp_path / "net.onnx", outputs)
    graphopt("run", model, photo, "--raw", tmp_path / "raw.npz")
    with np.load(tmp_path / "raw.npz") as raw:
        np.testing.assert_array_equal(raw["o"], outputs["o"])
        assert raw["image"].shape == (1, 3, 64, 64)


def test_heads_are_listed() -> None:
    listed = json.loads(graphopt("heads", "--json").stdout)
    assert {entry["name"] for entry in listed} >= {*HEADS, *OTHERS, "part-affinity", "heat-maps"}


def test_python_takes_every_head(tmp_path: Path, photo: Path) -> None:
    model = saved(tmp_path / "net.onnx", outputs_of("yolo-end-to-end"))
    with load(model) as opened:
        (person,) = opened(photo).people
    assert person.keypoints[0] == pytest.approx((16, 32, 0.9))


def test_a_stored_spec_is_believed(tmp_path: Path, photo: Path) -> None:
    model = saved(tmp_path / "net.onnx", outputs_of("yolo"))
    _, spec = open_any(model)
    proto = onnx.load(model)
    onnx.helper.set_model_props(
        proto, {"graphopt.pose": spec.to_json().replace('"min_score":0.25', '"min_score":0.85')}
    )
    onnx.save(proto, model)
    opened, stored = open_any(model)
    assert stored.notes["head"].how == "detected"
    with Image.open(photo) as picture:
        assert not Estimator(opened, stored)(picture.convert("RGB")).people
