"""Skeletons: the tables that come with graphopt, and users' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import InputError
from graphopt.pose.skeleton import COCO_PARTS, builtin_skeletons, load_skeleton


def test_coco18_is_openposes_table() -> None:
    skeleton = load_skeleton("coco18")
    assert [skeleton.ends(limb) for limb in skeleton.limbs] == [
        (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11),
        (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (2, 16), (5, 17),
    ]  # fmt: skip
    assert [limb.paf for limb in skeleton.limbs] == [
        (12, 13), (20, 21), (14, 15), (16, 17), (22, 23), (24, 25), (0, 1), (2, 3), (4, 5),
        (6, 7), (8, 9), (10, 11), (28, 29), (30, 31), (34, 35), (32, 33), (36, 37), (18, 19),
        (26, 27),
    ]  # fmt: skip
    assert [i for i, limb in enumerate(skeleton.limbs) if limb.bridge] == [17, 18]
    into_coco = [0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
    for place, coco in enumerate(into_coco):
        if coco is not None:
            assert skeleton.to_coco[coco] == place


def test_body25_has_openposes_counts_and_feet() -> None:
    skeleton = load_skeleton("body25")
    assert (len(skeleton.parts), len(skeleton.limbs), skeleton.paf_channels) == (25, 26, 52)
    assert sorted(c for limb in skeleton.limbs for c in limb.paf or ()) == list(range(52))
    by_ends = {skeleton.ends(limb): limb.paf for limb in skeleton.limbs}
    assert by_ends[1, 8] == (0, 1)
    assert by_ends[14, 19] == (40, 41)
    assert by_ends[11, 24] == (50, 51)
    assert skeleton.index["mid_hip"] == 8


@pytest.mark.parametrize("name", builtin_skeletons())
def test_builtin_skeletons_are_whole(name: str) -> None:
    skeleton = load_skeleton(name)
    assert skeleton.name == name
    assert (skeleton.mirrors[skeleton.mirrors] == np.arange(len(skeleton.parts))).all()
    for part, mirrored in zip(skeleton.parts, skeleton.mirrors, strict=True):
        assert ("left" in part.name) == ("right" in skeleton.parts[mirrored].name)
        assert part.coco in (None, part.name)
    mapped = [i for i in skeleton.to_coco.tolist() if i >= 0]
    assert len(set(mapped)) == len(mapped) >= (0 if name == "hand21" else 12)
    # A picture shows the same bone on both sides.
    drawn = {frozenset(skeleton.ends(limb)) for limb in skeleton.limbs}
    assert drawn == {frozenset(int(skeleton.mirrors[i]) for i in limb) for limb in drawn}
    assert all(name == skeleton.parts[i].name for name, i in skeleton.index.items())
    assert len(COCO_PARTS) == len(skeleton.to_coco)


MINE = """
name = "mine"
parts = [{ name = "top" }, { name = "left_end", mirror = "right_end" },
         { name = "right_end", mirror = "left_end" }]
limbs = [{ start = "top", end = "left_end", paf = [0, 1] },
         { start = "top", end = "right_end", paf = [2, 3] }]
"""


def test_a_users_skeleton(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MINE)
    skeleton = load_skeleton(file)
    assert skeleton.paf_channels == 4
    assert skeleton.mirrors.tolist() == [0, 2, 1]
    assert (skeleton.to_coco == -1).all()
    assert len(set(skeleton.part_colors)) == 3, "parts without a colour get different ones"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "mine"', "name = mine", "line 2"),
        ('name = "mine"', 'nmae = "mine"', "name: Field required|nmae"),
        ('end = "right_end"', 'end = "rihgt_end"', r"limbs\[1\].end: .*'rihgt_end'"),
        ('mirror = "left_end"', 'mirror = "top"', r"parts\[1\].mirror: 'right_end' does not"),
        ("paf = [2, 3]", "paf = [1, 2]", r"channels \[1\] are used twice"),
        ("paf = [2, 3]", "paf = [2]", r"limbs\[1\].paf"),
        ("paf = [2, 3]", "paf = [2, -3]", r"limbs\[1\].paf\[1\]"),
        ('{ name = "top" }', '{ name = "top", color = "red" }', r"parts\[0\].color"),
        ('{ name = "top" }', '{ name = "top", coco = "hat" }', r"parts\[0\].coco: .*'hat'"),
        ('{ name = "top" }', '{ name = "left_end" }', "listed twice"),
    ],
)
def test_a_wrong_skeleton_says_where(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in MINE
    file = tmp_path / "mine.toml"
    file.write_text(MINE.replace(old, new, 1))
    with pytest.raises(InputError, match=complaint) as error:
        load_skeleton(file)
    assert "mine.toml" in str(error.value)


@pytest.mark.parametrize("content", ["a=" + "[" * 100_000, "a=" + "{a=" * 5000, "\0", "parts=3"])
def test_a_damaged_skeleton_is_a_sentence(tmp_path: Path, content: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(InputError, match=r"mine\.toml is (not TOML|no skeleton)"):
        load_skeleton(file)
    with pytest.raises(InputError, match=r"no skeleton 'a.x00'"):
        load_skeleton("a\0")


def test_coco17_is_cocos() -> None:
    """Its maps are COCO's, in COCO's order, and left is left."""
    skeleton = load_skeleton("coco17")
    assert tuple(part.name for part in skeleton.parts) == COCO_PARTS
    assert skeleton.to_coco.tolist() == list(range(17))
    assert skeleton.mirrors.tolist() == [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    assert skeleton.paf_channels == 0
    assert len(skeleton.limbs) == 19


def test_a_missing_skeleton_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no skeleton 'coco19'[\s\S]*body25, coco-wholebody133, coco17, coco18"
    ):
        load_skeleton("coco19")
    picture = tmp_path / "photo.toml"
    picture.write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="not a text file"):
        load_skeleton(picture)
