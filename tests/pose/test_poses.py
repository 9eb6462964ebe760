"""Decoding, estimating and judging, on maps drawn for people at known places."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from scipy.sparse.csgraph import connected_components

from graphopt.errors import InputError
from graphopt.ir.arrays import Array, Shape
from graphopt.pose.coco import to_coco
from graphopt.pose.decode import Person, decode, decode_single_person, group_people
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.draw import draw
from graphopt.pose.estimate import Estimator, Job
from graphopt.pose.evaluate import evaluate
from graphopt.pose.limbs import assign_limbs, score_limbs
from graphopt.pose.map_slices import MapSlice
from graphopt.pose.peaks import cubic, find_maxima, find_peaks, refine
from graphopt.pose.preprocess import Placement
from graphopt.pose.similarity import oks, pose_shift
from graphopt.pose.skeleton import COCO_PARTS, Skeleton, load_skeleton
from graphopt.pose.spec import PoseSpec, Preprocess

STRIDE = 8
SIDE = 46
COCO18 = load_skeleton("coco18")
SPEC = PoseSpec(
    preprocess=Preprocess(color="bgr", mean=(0, 0, 0), scale=(1, 1, 1)),
    skeleton=COCO18,
    heat=MapSlice(output="heat", count=19),
    paf=MapSlice(output="paf", count=38),
    stride=STRIDE,
)
UNMOVED = Placement(scale=(1.0, 1.0), offset=(0, 0))
OPTIONS = DecodeOptions()

# A standing figure, x and y in units of its height from its neck: COCO18's order.
FIGURE = np.array(
    [
        [0.0, -0.12], [0.0, 0.0], [-0.10, 0.02], [-0.14, 0.17], [-0.15, 0.31], [0.10, 0.02],
        [0.15, 0.16], [0.17, 0.30], [-0.06, 0.35], [-0.07, 0.55], [-0.08, 0.76], [0.06, 0.35],
        [0.08, 0.55], [0.09, 0.75], [-0.03, -0.15], [0.03, -0.15], [-0.07, -0.13], [0.07, -0.13],
    ]
)  # fmt: skip


def figure(x: float, y: float, height: float = 260.0) -> NDArray[np.float64]:
    """Key points [18, 2] in input pixels of a figure whose neck is at (x, y)."""
    return FIGURE * height + (x, y)


def draw_maps(
    people: Sequence[NDArray[np.float64]], skeleton: Skeleton = COCO18, side: int = SIDE
) -> dict[str, NDArray[np.float32]]:
    """Heat maps and PAFs as networks are trained on them; a part at nan is not there."""
    y, x = np.mgrid[:side, :side].astype(float)
    heat = np.zeros((1, len(skeleton.parts) + 1, side, side))
    paf = np.zeros((1, skeleton.paf_channels, side, side))
    for points in people:
        cells = (points + 0.5) / STRIDE - 0.5
        for part, (cx, cy) in enumerate(cells):
            if np.isfinite(cx):
                bump = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 0.9**2))
                heat[0, part] = np.maximum(heat[0, part], bump)
        for limb in skeleton.paf_limbs:
            a, b = (cells[end] for end in skeleton.ends(limb))
            if np.isfinite(a + b).all() and limb.paf is not None:
                unit = (b - a) / np.hypot(*(b - a))
                along = (x - a[0]) * unit[0] + (y - a[1]) * unit[1]
                across = np.abs((x - a[0]) * unit[1] - (y - a[1]) * unit[0])
                on = (across < 1.2) & (along > -1) & (along < np.hypot(*(b - a)) + 1)
                for channel, value in zip(limb.paf, unit, strict=True):
                    paf[0, channel][on] = value
    heat[0, -1] = 1 - heat[0, :-1].max(axis=0)
    return {"heat": heat.astype(np.float32), "paf": paf.astype(np.float32)}


def found(outputs: Mapping[str, Array], **options: Any) -> tuple[Person, ...]:
    return decode(outputs, SPEC, UNMOVED, DecodeOptions(**options)).people


CROWD = [figure(70.3, 80.9), figure(180.6, 75.2, 240), figure(300.1, 90.4, 220)]


def nearest(people: Sequence[Person], points: NDArray[np.float64]) -> Person:
    return min(people, key=lambda p: float(np.hypot(*(p.keypoints[1, :2] - points[1]))))


# --- whole decodes ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_everybody_is_found_within_half_a_pixel(count: int) -> None:
    people = found(draw_maps(CROWD[:count]))
    assert len(people) == count
    for points in CROWD[:count]:
        person = nearest(people, points)
        assert (person.keypoints[:, 2] > 0.5).all()
        assert np.abs(person.keypoints[:, :2] - points).max() < 0.5


def test_crossing_arms_belong_to_their_owners() -> None:
    left, right = figure(120, 80), figure(240, 80)
    left[7], right[4] = (190, 170), (170, 170)  # the wrists pass each other
    people = found(draw_maps([left, right]))
    assert len(people) == 2
    assert np.allclose(nearest(people, left).keypoints[7, :2], left[7], atol=0.5)
    assert np.allclose(nearest(people, right).keypoints[4, :2], right[4], atol=0.5)


@pytest.mark.parametrize("part", range(18))
def test_a_missing_part_is_zeros_and_what_hangs_on_the_rest_stays(part: int) -> None:
    points = figure(180, 80)
    points[part] = np.nan
    ends = [COCO18.ends(limb) for limb in COCO18.limbs]
    links = np.zeros((18, 18))
    links[tuple(np.transpose([e for e in ends if part not in e]))] = 1
    _, piece = connected_components(links, directed=False)
    body = piece == np.bincount(piece).argmax()
    best = found(draw_maps([points]))[0].keypoints
    assert ((best[:, 2] > 0) == body).all()
    assert (best[~body] == 0).all()


def test_a_bridge_fills_a_gap_but_starts_nobody() -> None:
    points = figure(180, 80)
    eyeless = points.copy()
    eyeless[14] = np.nan  # the right eye: only shoulder-ear still leads to the right ear
    (person,) = found(draw_maps([eyeless]))
    assert person.keypoints[16, 2] > 0
    only_bridges = np.full((18, 2), np.nan)
    only_bridges[[2, 16]] = points[[2, 16]]
    assert found(draw_maps([only_bridges]), min_parts=2) == ()


def test_people_cut_by_the_border() -> None:
    points = figure(4, 80)  # the whole right side is outside
    people = found(draw_maps([np.where((points < -4).any(axis=1, keepdims=True), np.nan, points)]))
    assert len(people) == 1
    assert people[0].keypoints[:, 0].min() >= 0


def test_nothing_gives_nobody() -> None:
    assert found(draw_maps([])) == ()


def test_values_that_are_not_finite_are_reported_and_harmless() -> None:
    outputs = draw_maps([figure(250, 80)])
    outputs["heat"][0, :, 2, 2] = np.nan
    outputs["heat"][0, :, 2, 4] = np.inf
    outputs["paf"][0, :, :4, :4] = np.nan
    poses = decode(outputs, SPEC, UNMOVED)
    assert len(poses.people) == 1
    assert (poses.people[0].keypoints[:, 2] > 0.5).all()
    assert any("not finite" in warning for warning in poses.warnings)


def test_outputs_that_are_not_there_are_named() -> None:
    outputs = draw_maps(CROWD)
    with pytest.raises(InputError, match=r"'heat'[\s\S]*other \[1, 19, 46, 46\]"):
        decode({"other": outputs["heat"]}, SPEC, UNMOVED)
    with pytest.raises(InputError, match="channels 0 to 37 of output 'paf'"):
        decode(outputs | {"paf": outputs["paf"][:, :30]}, SPEC, UNMOVED)


def test_scores_order_people_and_drop_them() -> None:
    partial = figure(300, 80)
    partial[8:14] = np.nan
    people = found(draw_maps([partial, figure(100, 80)]))
    assert [p.score for p in people] == sorted((p.score for p in people), reverse=True)
    assert people[0].keypoints[1, 0] < 200, "the complete one first"
    assert 0.8 < people[0].score <= 1
    assert len(found(draw_maps([partial, figure(100, 80)]), min_score=0.75)) == 1


def test_the_same_maps_give_the_same_people() -> None:
    outputs = draw_maps(CROWD)
    first, second = found(outputs), found(outputs)
    assert all((a.keypoints == b.keypoints).all() for a, b in zip(first, second, strict=True))


def test_more_peaks_than_the_limit_are_reported_and_the_best_kept() -> None:
    outputs = draw_maps(CROWD)
    outputs["heat"][0, 0] *= np.linspace(1, 0.5, SIDE)[None]  # noses further right are weaker
    poses = decode(outputs, SPEC, UNMOVED, DecodeOptions(max_peaks=1))
    assert "nose" in " ".join(poses.warnings)
    assert len(poses.people) == 1
    assert poses.people[0].keypoints[0, 0] < 100


# --- step by step -------------------------------------------------------------------------------


def test_cubic_kernel_interpolates_and_sums_to_one() -> None:
    assert cubic(np.arange(-3.0, 4.0)).tolist() == [0, 0, 0, 1, 0, 0, 0]
    offsets = np.linspace(0, 1, 11)[:, None]
    assert np.allclose(cubic(offsets - np.arange(-1, 3)).sum(axis=1), 1)
    assert cubic(np.array(0.5)) == pytest.approx(0.59375)  # OpenCV's weight at a half


def test_a_plateau_has_one_peak_and_its_position_is_in_the_middle() -> None:
    heat = np.zeros((1, 9, 9), np.float32)
    heat[0, 4, 3:5] = 0.8
    peaks = find_peaks(heat, OPTIONS)
    assert peaks.position.tolist() == [[3.5, 4.0]]


def test_equal_peaks_come_in_raster_order() -> None:
    heat = np.zeros((2, 12, 12), np.float32)
    heat[1, 8, 2] = heat[1, 2, 8] = heat[1, 2, 2] = heat[0, 5, 5] = 0.5
    peaks = find_peaks(heat, OPTIONS)
    assert peaks.part.tolist() == [0, 1, 1, 1]
    assert peaks.position.tolist() == [[5, 5], [2, 2], [8, 2], [2, 8]]


def test_peaks_at_the_corners() -> None:
    heat = np.zeros((1, 7, 5), np.float32)
    heat[0, 0, 0] = heat[0, 6, 4] = 0.9
    peaks = find_peaks(heat, OPTIONS)
    assert len(peaks.part) == 2
    assert peaks.position.tolist() == [[0, 0], [4, 6]]


def test_values_at_the_threshold_are_no_peaks() -> None:
    heat = np.full((1, 5, 5), 0.1, np.float32)
    assert len(find_peaks(heat, DecodeOptions(peak_threshold=float(np.float32(0.1)))).part) == 0


@pytest.mark.parametrize(("x", "y"), [(10.0, 10.0), (10.3, 9.8), (9.55, 10.45), (5.6, 0.0)])
def test_refinement_finds_the_top_between_pixels(x: float, y: float) -> None:
    rows, columns = np.mgrid[:20, :20]
    heat = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.1**2)).astype(np.float32)[None]
    position, score = refine(heat, np.array([0]), np.array([round(y)]), np.array([round(x)]))
    assert np.abs(position[0] - (x, y)).max() < 0.06
    assert score[0] == pytest.approx(1, abs=0.05)


def test_limb_scores_are_the_mean_projection() -> None:
    skeleton = Skeleton.from_plain(
        {
            "name": "stick",
            "parts": [{"name": "a"}, {"name": "b"}],
            "limbs": [{"start": "a", "end": "b", "paf": [0, 1]}],
        }
    )
    heat = np.zeros((2, 10, 20), np.float32)
    heat[0, 5, 2] = heat[1, 5, 12] = heat[1, 1, 2] = 1
    paf = np.zeros((2, 10, 20), np.float32)
    paf[0, :, :8] = 0.9
    pairs = score_limbs(paf, find_peaks(heat, OPTIONS), skeleton, OPTIONS)
    # Along x the field is 0.9 up to x = 7 and falls to 0 at 8; ten points lie 10/9 apart.
    along = np.interp(2 + np.arange(10) * 10 / 9, [7, 8], [0.9, 0])
    by_end = {int(end): i for i, end in enumerate(pairs.end)}
    peaks = find_peaks(heat, OPTIONS)
    far = by_end[int(np.flatnonzero((peaks.part == 1) & (peaks.position[:, 0] > 10))[0])]
    up = by_end[int(np.flatnonzero((peaks.part == 1) & (peaks.position[:, 0] < 10))[0])]
    assert pairs.score[far] == pytest.approx(along.mean(), abs=1e-6)
    assert pairs.support[far] == pytest.approx((along > 0.05).mean())
    assert pairs.score[up] == pytest.approx(0)
    assert len(assign_limbs(pairs, OPTIONS).limb) == 0, "half a limb is no limb"


def test_a_peak_is_in_one_pair_of_a_limb_at_most() -> None:
    outputs = draw_maps(CROWD)
    peaks = find_peaks(outputs["heat"][0, :18], OPTIONS)
    pairs = assign_limbs(score_limbs(outputs["paf"][0], peaks, COCO18, OPTIONS), OPTIONS)
    for ends in (pairs.start, pairs.end):
        assert len(set(zip(pairs.limb.tolist(), ends.tolist(), strict=True))) == len(ends)
    assert len(pairs.limb) == 3 * 19
    assert len(group_people(peaks, pairs, COCO18, OPTIONS)) == 3


def test_one_person_networks_take_each_maximum() -> None:
    heat = draw_maps([figure(180, 80)])["heat"][0, :18]
    heat[4] = 0.02
    (person,) = decode_single_person(find_maxima(heat, OPTIONS), COCO18, OPTIONS)
    assert (person.keypoints[4] == 0).all()
    assert np.delete(person.keypoints[:, 2], 4).min() > 0.9
    assert decode_single_person(find_maxima(np.zeros_like(heat), OPTIONS), COCO18, OPTIONS) == []


# --- photos to results --------------------------------------------------------------------------


class Painted:
    """An engine that finds the same people in every photo of 368 x 368."""

    name = "painted"
    inputs: Mapping[str, Shape] = {"image": (1, 3, None, None)}
    outputs: Sequence[str] = ("heat", "paf")

    def __init__(self, people: Sequence[NDArray[np.float64]]) -> None:
        self._maps = draw_maps(people)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        assert feeds["image"].shape == (1, 3, 368, 368)
        return dict(self._maps)


@pytest.fixture
def estimator() -> Estimator:
    return Estimator(Painted(CROWD), SPEC)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "photo.png"
    path.parent.mkdir()
    Image.new("RGB", (368, 368), "grey").save(path)
    return path


QUIET = Console(quiet=True)


def test_json_shape(estimator: Estimator, photo: Path, tmp_path: Path) -> None:
    target = tmp_path / "poses.json"
    list(Job.plan([photo], None, target).run(estimator, QUIET))
    (entry,) = json.loads(target.read_text())
    assert entry.keys() == {"image", "width", "height", "people", "skeleton"}
    assert (entry["image"], entry["width"], entry["height"]) == (str(photo), 368, 368)
    assert entry["skeleton"] == "coco18"
    assert len(entry["people"]) == 3
    for person in entry["people"]:
        assert person.keys() == {"score", "keypoints"}
        assert [len(keypoint) for keypoint in person["keypoints"]] == [3] * 18


def test_one_photo_one_picture_and_the_photo_stays(
    estimator: Estimator, photo: Path, tmp_path: Path
) -> None:
    before = photo.read_bytes()
    (result,) = Job.plan([photo], tmp_path / "out.jpg").run(estimator, QUIET)
    assert result is not None
    assert len(result.poses.people) == 3
    assert Image.open(tmp_path / "out.jpg").size == (368, 368)
    assert photo.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out.jpg"], "nothing is left over"


def test_a_folder_goes_to_a_folder_without_what_is_no_photo(
    estimator: Estimator, photo: Path, tmp_path: Path
) -> None:
    (photo.parent / "notes.txt").write_text("no photo")
    (photo.parent / "torn.png").write_bytes(photo.read_bytes()[:60])
    results = list(Job.plan([photo.parent], tmp_path / "out").run(estimator, QUIET))
    assert [None if r is None else r.image for r in results] == [None, str(photo), None]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["photo.png"]


def test_a_named_file_that_is_no_photo_is_an_error(estimator: Estimator, tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no photo")
    with pytest.raises(InputError, match="no photo that can be read"):
        list(Job.plan([text], None).run(estimator, QUIET))


def test_plans_that_cannot_work(photo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "photo.png"
    other.parent.mkdir()
    other.write_bytes(photo.read_bytes())
    empty = tmp_path / "empty"
    empty.mkdir()
    for inputs, output, complaint in (
        ([tmp_path / "none.png"], None, "does not exist"),
        ([empty], None, "no file in"),
        ([photo], photo, "is an input"),
        ([photo.parent], photo.parent, "is an input"),
        ([photo, other], tmp_path / "out", "would both become"),
        ([photo], tmp_path / "out.txt", "not named like a picture"),
        ([photo, other], photo, "several pictures go to a folder"),
    ):
        with pytest.raises(InputError, match=complaint):
            Job.plan(inputs, output)
    with pytest.raises(InputError, match="is an input"):
        Job.plan([photo], None, photo)


def test_a_video_becomes_a_video_or_frames(estimator: Estimator, tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    clip = tmp_path / "clip.mp4"
    with imageio.get_writer(clip, "ffmpeg", fps=10, macro_block_size=2) as writer:
        for shade in range(6):
            writer.append_data(np.full((368, 368, 3), 40 * shade, np.uint8))
    results = list(Job.plan([clip], tmp_path / "out.mp4").run(estimator, QUIET))
    assert [r.image for r in results if r] == [f"{clip}#{i}" for i in range(6)]
    assert imageio.get_reader(tmp_path / "out.mp4", "ffmpeg").count_frames() == 6
    followed = list(Job.plan([clip], None, tracking="smooth").run(estimator, QUIET))
    identities = [[p.identity for p in r.poses.people] for r in followed if r]
    assert identities == [list(range(1, 1 + len(CROWD)))] * 6
    clip.with_name("torn.mp4").write_bytes(clip.read_bytes()[:99])
    with pytest.raises(InputError, match=r"torn.mp4 is no video that can be read: [^\n]+$"):
        list(Job.plan([clip.with_name("torn.mp4")], None).run(estimator, QUIET))
    list(Job.plan([clip], tmp_path / "frames").run(estimator, QUIET))
    assert len(list((tmp_path / "frames" / "clip").glob("*.png"))) == 6


def test_drawing_marks_limbs_and_leaves_the_rest(estimator: Estimator) -> None:
    photo = Image.new("RGB", (368, 368), "grey")
    picture = np.asarray(draw(photo, estimator(photo).people, COCO18)).astype(int)
    changed = (picture != 128).any(axis=2)
    middle = CROWD[0][[2, 3]].mean(axis=0).round().astype(int)  # of the right upper arm
    assert changed[middle[1], middle[0]]
    assert 0.01 < changed.mean() < 0.3
    assert (np.asarray(photo) == 128).all()
    off_picture = Person(np.full((18, 3), 900.0, np.float32), 1.0)
    assert (np.asarray(draw(photo, [off_picture], COCO18)) == 128).all()


# --- judging ------------------------------------------------------------------------------------


def labelled(people: Sequence[NDArray[np.float64]]) -> dict[str, object]:
    entries = []
    for number, points in enumerate(people):
        person = Person(np.column_stack([points, np.ones(18)]).astype(np.float32), 1.0)
        keypoints = to_coco(person, COCO18) * (1, 1, 2)
        low, high = points.min(axis=0), points.max(axis=0)
        entries.append(
            {
                "id": number + 1,
                "image_id": 7,
                "category_id": 1,
                "iscrowd": 0,
                "keypoints": keypoints.ravel().tolist(),
                "num_keypoints": 17,
                "bbox": [*low, *(high - low)],
                "area": float(np.prod(high - low)) * 0.523,
            }
        )
    return {
        "images": [{"id": 7, "file_name": "photo.png", "width": 368, "height": 368}],
        "annotations": entries,
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_PARTS)}],
    }


def test_perfect_poses_have_ap_one(estimator: Estimator, photo: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(labelled(CROWD)))
    scores = evaluate(estimator, photo.parent, truth)
    assert (scores.AP, scores.AP50, scores.AR, scores.images) == (1.0, 1.0, 1.0, 1)
    truth.write_text(json.dumps(labelled([*CROWD, figure(200, 150, 90)])))
    missed_one = evaluate(estimator, photo.parent, truth)
    assert abs(missed_one.AR - 0.75) < 1e-6


def test_nobody_found_is_ap_zero(photo: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(labelled(CROWD)))
    assert evaluate(Estimator(Painted([]), SPEC), photo.parent, truth).AP == 0


def test_annotations_that_are_none(estimator: Estimator, photo: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    truth = tmp_path / "truth.json"
    good = labelled(CROWD)
    for content, complaint in (
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("[]", "no COCO annotation file"),
        (json.dumps(good | {"annotations": [{"id": 1}]}), "no key points"),
        (json.dumps(good | {"images": [{"id": 7, "file_name": "gone.png"}]}), "1 of 1 .* gone.png"),
    ):
        if content is not None:
            truth.write_text(content)
        with pytest.raises(InputError, match=complaint):
            evaluate(estimator, photo.parent, truth)


def test_pose_shift_counts_moved_lost_and_added() -> None:
    before = found(draw_maps(CROWD))
    assert pose_shift(before, before, COCO18).mean_pixels == 0
    moved = [Person(p.keypoints + np.array([3, 4, 0], np.float32), p.score) for p in before[:2]]
    moved[0].keypoints[5] = 0
    stranger = found(draw_maps([figure(200, 250, 80)]))
    shift = pose_shift(before, [*moved, *stranger], COCO18)
    assert (shift.matched, shift.lost, shift.added) == (2, 1, 1)
    assert (shift.parts_lost, shift.parts_added) == (1, 0)
    assert shift.mean_pixels == pytest.approx(5, abs=1e-3)
    assert pose_shift([], before, COCO18).added == 3
    assert pose_shift(before, [], COCO18).lost == 3


def test_oks_is_one_for_the_same_and_falls_with_distance() -> None:
    (person,) = found(draw_maps([figure(180, 80)]))
    near = Person(person.keypoints + np.array([2, 0, 0], np.float32), 1.0)
    far = Person(person.keypoints + np.array([20, 0, 0], np.float32), 1.0)
    assert oks(person, person, COCO18) == 1
    assert 1 > oks(person, near, COCO18) > 0.9 > oks(person, far, COCO18) > 0
