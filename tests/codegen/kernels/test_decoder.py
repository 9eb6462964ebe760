"""The fused decoder against its reference, `graphopt.pose.decode`, on maps made to part them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.optimize import linear_sum_assignment

from graphopt.codegen.lowering.decode_stage import write_decoder
from graphopt.codegen.targets import load_target
from graphopt.errors import InputError
from graphopt.pose.decode import Poses, decode, detect
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.kernel_decoder import FusedDecoder
from graphopt.pose.map_slices import MapSlice
from graphopt.pose.peaks import cubic, find_peaks
from graphopt.pose.preprocess import Placement
from graphopt.pose.skeleton import Skeleton, load_skeleton
from graphopt.pose.spec import PoseSpec, Preprocess
from graphopt.pose.synthetic import crowd, draw_maps
from graphopt.runtime.open import open_bundle

SIZE = (25, 42)
OPTIONS = DecodeOptions(max_peaks=40)
PLACEMENT = Placement(scale=(1.25, 1.2), offset=(3, 4))
TRIANGLE = Skeleton.from_plain(
    {
        "name": "triangle",
        "parts": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
        "limbs": [
            {"start": "c", "end": "a", "paf": [5, 2]},
            {"start": "a", "end": "b", "paf": [0, 1]},
            {"start": "b", "end": "c", "paf": [4, 3], "bridge": True},
        ],
    }
)
SKELETONS = {
    "triangle": TRIANGLE,
    **{name: load_skeleton(name) for name in ("coco18", "body25", "mpii16")},
}

Maps = tuple[NDArray[np.float32], NDArray[np.float32]]
CASES: dict[str, Callable[[Skeleton, np.random.Generator], Maps]] = {}


def case(
    make: Callable[[Skeleton, np.random.Generator], Maps],
) -> Callable[[Skeleton, np.random.Generator], Maps]:
    """Add maps to the test."""
    CASES[make.__name__] = make
    return make


def zeros(skeleton: Skeleton) -> Maps:
    shapes = ((channels, *SIZE) for channels in (len(skeleton.parts), skeleton.paf_channels))
    heat, paf = (np.zeros(shape, np.float32) for shape in shapes)
    return heat, paf


@case
def nobody(skeleton: Skeleton, _: np.random.Generator) -> Maps:
    return zeros(skeleton)


@case
def one_person(skeleton: Skeleton, rng: np.random.Generator) -> Maps:
    return draw_maps(crowd(skeleton, 1, SIZE, rng), skeleton, SIZE)


@case
def thirty_people(skeleton: Skeleton, rng: np.random.Generator) -> Maps:
    return draw_maps(crowd(skeleton, 30, SIZE, rng), skeleton, SIZE, 0.05, rng)


@case
def smooth(skeleton: Skeleton, rng: np.random.Generator) -> Maps:
    heat, paf = (rng.uniform(-1, 1, maps.shape) for maps in zeros(skeleton))
    heat, paf = (gaussian_filter(maps, (0, 2, 2)).astype(np.float32) for maps in (heat, paf))
    return 8 * heat, 8 * paf


@case
def noise(skeleton: Skeleton, rng: np.random.Generator) -> Maps:
    """More peaks than the limit, in every part."""
    heat, paf = (rng.uniform(-0.5, 1, maps.shape).astype(np.float32) for maps in zeros(skeleton))
    return heat, paf


@case
def equals(skeleton: Skeleton, rng: np.random.Generator) -> Maps:
    """A few values only: plateaus of all shapes, and more equal peaks than the limit.

    Such sums are exact, so that equal is equal in whatever order they are added up.
    """
    heat, paf = zeros(skeleton)
    heat[:] = rng.integers(0, 3, heat.shape) / 4
    return heat, paf


@case
def ties(skeleton: Skeleton, _: np.random.Generator) -> Maps:
    """Parts on a lattice in fields that are the same everywhere: many pairs are equally good."""
    heat, paf = zeros(skeleton)
    for part in range(len(skeleton.parts)):
        heat[part, 3 + part % 2 :: 8, 4 + 3 * (part % 3) :: 11] = 0.5
    paf[::2] = 0.5
    return heat, paf


@case
def borders(skeleton: Skeleton, _: np.random.Generator) -> Maps:
    heat, paf = zeros(skeleton)
    heat[:, [0, 0, -1, -1, 0, -1, 20, 21], [0, -1, 0, -1, 30, 31, 0, -1]] = 0.75
    heat[::2, -1, -2:] = 0.75
    paf += 0.25
    return heat, paf


@case
def flat(skeleton: Skeleton, _: np.random.Generator) -> Maps:
    """Above the threshold everywhere."""
    heat, paf = zeros(skeleton)
    return heat + np.float32(0.5), paf + np.float32(0.5)


@case
def not_finite(skeleton: Skeleton, rng: np.random.Generator) -> Maps:
    heat, paf = draw_maps(crowd(skeleton, 4, SIZE, rng), skeleton, SIZE, 0.02, rng)
    for maps, values in ((heat, (np.nan, np.inf, -np.inf)), (paf, (np.nan,))):
        for value in values:
            maps[rng.random(maps.shape) < 0.01] = value
    return heat, paf


@case
def one_infinity(skeleton: Skeleton, rng: np.random.Generator) -> Maps:
    heat, paf = one_person(skeleton, rng)
    heat[-1, 0, 0] = -np.inf
    return heat, paf


def spec_of(skeleton: Skeleton) -> PoseSpec:
    """A network's, whose maps are among others in one output."""
    parts, channels = len(skeleton.parts), skeleton.paf_channels
    return PoseSpec(
        preprocess=Preprocess(color="bgr", mean=(0, 0, 0), scale=(1, 1, 1)),
        skeleton=skeleton,
        heat=MapSlice(output="maps", first=1, count=parts + 1),
        paf=MapSlice(output="maps", first=parts + 2, count=channels) if channels else None,
        stride=8,
    )


def as_outputs(maps: Maps) -> dict[str, NDArray[np.float32]]:
    other = np.ones((1, 1, *maps[0].shape[1:]), np.float32)
    return {"maps": np.concatenate([other, maps[0][None], other, maps[1][None]], axis=1)}


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FusedDecoder]:
    """The decoder of a skeleton for a target."""

    @cache
    def make(name: str, target: str) -> FusedDecoder:
        path = tmp_path_factory.mktemp("decoder") / "decoder"
        write_decoder(SKELETONS[name], SIZE, load_target(target), path, OPTIONS)
        return FusedDecoder(open_bundle(path, threads=1), OPTIONS)

    return make


def assert_same(got: Poses, expected: Poses) -> None:
    assert got.warnings == expected.warnings
    assert len(got.people) == len(expected.people)
    for one, other in zip(got.people, expected.people, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5, nan_ok=True)
        np.testing.assert_allclose(one.keypoints, other.keypoints, rtol=1e-5, atol=1e-2)


TARGETS = ["cpu", pytest.param("opencl", marks=pytest.mark.opencl)]


@pytest.mark.parametrize("name", SKELETONS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_both_decoders_find_the_same(
    case: str, target: str, name: str, fused: Callable[..., FusedDecoder]
) -> None:
    skeleton = SKELETONS[name]
    outputs = as_outputs(CASES[case](skeleton, np.random.default_rng(len(case))))
    spec, options = spec_of(skeleton), OPTIONS
    decoder = fused(name, target)
    (peaks, pairs), (real_peaks, real_pairs) = (
        find(outputs, spec, options) for find in (decoder.detect, detect)
    )
    for field in ("part", "dropped", "finite"):
        np.testing.assert_array_equal(getattr(peaks, field), getattr(real_peaks, field))
    np.testing.assert_allclose(peaks.position, real_peaks.position, atol=1e-3)
    np.testing.assert_allclose(peaks.score, real_peaks.score, atol=1e-5)
    assert (pairs is None) == (real_pairs is None) == (spec.paf is None)
    if pairs is not None and real_pairs is not None:
        assert (np.diff(pairs.score)[np.diff(pairs.limb) == 0] <= 0).all(), "the best first"
        # Pairs that are equal but for rounding may come in another order.
        pairs, real_pairs = (p.take(np.lexsort((p.start, p.limb))) for p in (pairs, real_pairs))
        for field in ("limb", "start", "end"):
            np.testing.assert_array_equal(getattr(pairs, field), getattr(real_pairs, field))
        np.testing.assert_allclose(pairs.score, real_pairs.score, atol=1e-4)
    assert_same(*(d(outputs, spec, PLACEMENT, options) for d in (decoder, decode)))


@pytest.mark.parametrize("target", TARGETS)
def test_a_hundred_people(target: str, tmp_path: Path) -> None:
    skeleton, size, rng = SKELETONS["coco18"], (46, 82), np.random.default_rng(0)
    outputs = as_outputs(draw_maps(crowd(skeleton, 100, size, rng), skeleton, size, 0.02, rng))
    write_decoder(skeleton, size, load_target(target), tmp_path / "decoder")
    got = FusedDecoder(open_bundle(tmp_path / "decoder", threads=1))(
        outputs, spec_of(skeleton), PLACEMENT
    )
    assert len(got.people) >= 90
    assert_same(got, decode(outputs, spec_of(skeleton), PLACEMENT))


CHANGED: list[dict[str, Any]] = [
    {"peak_threshold": 0.4},
    {"paf_threshold": 0.6},
    {"min_support": 0.0},
    {"min_support": 1.0},
    {"min_parts": 12, "min_score": 0.7},
]


@pytest.mark.parametrize("change", CHANGED, ids=lambda change: "-".join(change))
def test_thresholds_are_not_compiled_in(
    change: dict[str, Any], fused: Callable[..., FusedDecoder]
) -> None:
    spec, options = spec_of(SKELETONS["coco18"]), replace(OPTIONS, **change)
    outputs = as_outputs(thirty_maps())
    got = fused("coco18", "cpu")(outputs, spec, PLACEMENT, options)
    expected = decode(outputs, spec, PLACEMENT, options)
    assert_same(got, expected)
    usual = decode(outputs, spec, PLACEMENT, OPTIONS)
    changed = [p.keypoints.tolist() for p in expected.people]
    assert changed != [p.keypoints.tolist() for p in usual.people], "the option does something"


def thirty_maps() -> Maps:
    return thirty_people(SKELETONS["coco18"], np.random.default_rng(0))


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_maps_give_the_same_bits(target: str, fused: Callable[..., FusedDecoder]) -> None:
    spec, outputs = spec_of(SKELETONS["coco18"]), as_outputs(thirty_maps())
    first, second = (fused("coco18", target)(outputs, spec, PLACEMENT) for _ in range(2))
    assert len(first.people) >= 30
    assert all(
        (a.keypoints == b.keypoints).all() and a.score == b.score
        for a, b in zip(first.people, second.people, strict=True)
    )


def test_limits_that_were_not_compiled_in_are_refused(fused: Callable[..., FusedDecoder]) -> None:
    spec, outputs = spec_of(SKELETONS["coco18"]), as_outputs(thirty_maps())
    with pytest.raises(InputError, match="max_peaks=40, not 5"):
        fused("coco18", "cpu")(outputs, spec, PLACEMENT, DecodeOptions(max_peaks=5))


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("count", [1, 10, 30])
def test_everybody_made_up_is_found(count: int, noise: float) -> None:
    skeleton, size, rng = SKELETONS["coco18"], (46, 82), np.random.default_rng(count)
    people = crowd(skeleton, count, size, rng)
    outputs = as_outputs(draw_maps(people, skeleton, size, noise, rng))
    unmoved = Placement(scale=(1.0, 1.0), offset=(0, 0))
    found = decode(outputs, spec_of(skeleton), unmoved).people
    # Strong noise looks like a few people more, with few parts.
    assert count <= len(found) <= count + (2 if noise > 0.03 else 0)
    pixels = (np.stack(people) + 0.5) * 8 - 0.5
    got = np.stack([person.keypoints for person in found])[:, None, :, :2]
    apart = np.nanmedian(np.abs(got - pixels).max(axis=3), axis=2)
    own, place = linear_sum_assignment(apart)
    assert len(place) == count
    assert apart[own, place].max() < 4, "most parts within half a pixel of the maps"


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("count", [1, 30])
def test_peaks_are_where_full_upsampling_has_them(count: int, noise: float) -> None:
    """All of the maps, 32 times as large by cubic convolution: a maximum near every peak."""
    skeleton, size, rng = SKELETONS["coco18"], (46, 82), np.random.default_rng(count)
    heat, _ = draw_maps(crowd(skeleton, count, size, rng), skeleton, size, noise, rng)
    peaks = find_peaks(heat, OPTIONS)
    down, across = (enlarging(extent, 32) for extent in size)
    off = []
    for part, each in enumerate(heat):
        large = down @ each @ across.T
        tops = np.argwhere((large == maximum_filter(large, 3)) & (large > 0.1))[:, ::-1]
        places = ((tops + 0.5) / 32 - 0.5).clip(0, np.array(size[::-1]) - 1)
        # Not the flat peaks that noise makes.
        seen = (peaks.part == part) & (peaks.score > 0.5)
        off += [8 * np.abs(places - p).max(axis=1).min() for p in peaks.position[seen]]
    assert np.quantile(off, 0.99) < 0.5, "pixels of the photo"
    assert max(off) < (1.0 if noise else 0.5), "where people are on top of each other"


def enlarging(extent: int, times: int) -> NDArray[np.float64]:
    """[extent * times, extent]: cubic convolution, the border replicated."""
    place = (np.arange(extent * times) + 0.5) / times - 0.5
    pixels = np.floor(place).astype(int)[:, None] + np.arange(-1, 3)
    matrix = np.zeros((len(place), extent))
    rows = np.arange(len(place))[:, None]
    np.add.at(matrix, (rows, pixels.clip(0, extent - 1)), cubic(place[:, None] - pixels))
    return matrix
