"""`graphopt run` and `graphopt eval` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Graphopt
from PIL import Image

pytestmark = pytest.mark.assets


def test_run_writes_picture_and_json(
    graphopt: Graphopt, lwop: Path, photos: list[Path], tmp_path: Path
) -> None:
    photo = next(p for p in photos if p.name.endswith("328.jpg"))
    done = graphopt("run", lwop, photo, "-o", tmp_path / "out.png", "--json", tmp_path / "out.json")
    assert done.code == 0, done.stderr
    assert done.stdout.startswith(f"{photo}: 3 people, ")
    assert "guessed: color bgr" in done.stderr
    (entry,) = json.loads((tmp_path / "out.json").read_text())
    with Image.open(photo) as original, Image.open(tmp_path / "out.png") as picture:
        assert picture.size == original.size == (entry["width"], entry["height"])
    noses = sorted(person["keypoints"][0][0] for person in entry["people"])
    shares = [x / entry["width"] for x in noses]
    assert shares == pytest.approx([0.30, 0.53, 0.69], abs=0.03)


def test_run_takes_flags_and_one_person_networks(
    graphopt: Graphopt, efficientpose: Path, photos: list[Path], tmp_path: Path
) -> None:
    photo = next(p for p in photos if p.name == "tfpose_apink1.jpg")
    json_file = tmp_path / "out.json"
    flags = ("--color", "rgb", "--mean", "123.7,116.3,103.5", "--scale", "1/58", "--pad-value", "0")
    done = graphopt("run", efficientpose, photo, *flags)
    assert done.stderr.startswith("guessed: skeleton mpii16, decoder for one person (16 heat maps")
    assert done.stderr.count("\n") == 2  # and where the picture is
    skeleton = ("--skeleton", "mpii16")
    done = graphopt("run", efficientpose, photo, "--json", json_file, *flags, *skeleton)
    assert done.code == 0, done.stderr
    assert not done.stderr
    (entry,) = json.loads(json_file.read_text())
    assert entry["skeleton"] == "mpii16"
    (person,) = entry["people"]
    # Head above neck above pelvis above ankles: the order of the maps is what the skeleton says.
    heights = [person["keypoints"][part][1] for part in (0, 1, 9, 12)]
    assert heights == sorted(heights)


def test_run_says_in_a_sentence_what_is_wrong(
    graphopt: Graphopt, lwop: Path, photos: list[Path], tmp_path: Path
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no photo")
    for arguments, code, complaint in (
        ((lwop, text), 1, "text.jpg is no photo"),
        ((lwop, photos[0], "--engine", "graphopt"), 1, "compile it first"),
        ((text, photos[0]), 1, "text.jpg is not an ONNX model"),
        ((lwop, photos[0], "-o", tmp_path / "out.xyz"), 2, "out.xyz is not named like a picture"),
        ((lwop, photos[0], "--scale", "big"), 2, "--scale big"),
        ((lwop, photos[0], "-o", text / "out.png"), 1, "out.png cannot be written"),
    ):
        done = graphopt("run", *arguments)
        assert done.code == code
        assert complaint in done.stderr
        assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["text.jpg"]


def test_eval_reports_scores(
    graphopt: Graphopt, tfpose: Path, assets: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pycocotools")
    truth = assets / "coco" / "person_keypoints_val_dev.json"
    result = tmp_path / "scores.json"
    arguments = ("--images", assets / "coco" / "val_dev", "--annotations", truth, "--limit", "12")
    done = graphopt("eval", tfpose, *arguments, "--json", result)
    assert done.code == 0, done.stderr
    scores = json.loads(result.read_text())
    assert scores.keys() == {"AP", "AP50", "AP75", "AR", "images", "seconds"}
    assert scores["images"] == 12
    assert scores["AP50"] > scores["AP"] > 0.2
    assert f"AP {scores['AP']:.3f}" in done.stdout
    missing = graphopt("eval", tfpose, "--images", tmp_path, "--annotations", truth, "--limit", "2")
    assert missing.code == 1
    assert "2 of 2 annotated photos are not in" in missing.stderr
