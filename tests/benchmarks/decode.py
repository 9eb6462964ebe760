"""The fused decoder beside the NumPy decoder, from maps to people, on one thread, as Markdown.

    python tests/benchmarks/decode.py [--people 1,10,30,60] [--size 46x82] [--target cpu]
        [--network NETWORK.onnx PHOTO …] [--rounds 30]

Crowds are made up (`graphopt.pose.synthetic`, coco18, noise of 0.02); with a network, its maps of
the photos follow. The decoders take turns; times are medians in milliseconds, ratios the median of
the rounds and, in brackets, their 10th and 90th percentile. "Kernels" is the fused decoder without
what Python does around it. "Apart" is how far the two decoders' key points are from each other, in
pixels of the photo. Run it while nothing else runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from graphopt.codegen.lowering.decode_stage import write_decoder
from graphopt.codegen.targets import load_target
from graphopt.ir.arrays import Array
from graphopt.pose.decode import Poses, decode
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.detect import detect_pose_spec
from graphopt.pose.images import read_photo
from graphopt.pose.kernel_decoder import FusedDecoder
from graphopt.pose.map_slices import MapSlice
from graphopt.pose.preprocess import Placement, prepare
from graphopt.pose.skeleton import load_skeleton
from graphopt.pose.spec import PoseSpec, Preprocess
from graphopt.pose.synthetic import crowd, draw_maps
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.open import open_bundle

NOISE = 0.02
Maps = tuple[str, dict[str, Array], PoseSpec, Placement]


def crowds(counts: list[int], size: tuple[int, int]) -> Iterator[Maps]:
    """Maps of made-up people."""
    skeleton = load_skeleton("coco18")
    spec = PoseSpec(
        preprocess=Preprocess(color="bgr", mean=(0, 0, 0), scale=(1, 1, 1)),
        skeleton=skeleton,
        heat=MapSlice(output="heat", count=len(skeleton.parts)),
        paf=MapSlice(output="paf", count=skeleton.paf_channels),
        stride=8,
    )
    for count in counts:
        rng = np.random.default_rng(count)
        people = crowd(skeleton, count, size, rng)
        heat, paf = draw_maps(people, skeleton, size, NOISE, rng)
        placement = Placement(scale=(1.0, 1.0), offset=(0, 0))
        yield f"{count} made up", {"heat": heat[None], "paf": paf[None]}, spec, placement


def photographed(network: Path, photos: list[Path], size: tuple[int, int]) -> Iterator[Maps]:
    """A network's maps of photos."""
    engine, spec = OnnxRuntimeEngine(network), detect_pose_spec(network)
    (name,) = engine.inputs
    shape = tuple(extent * spec.stride for extent in size)
    for photo in photos:
        tensor, placement = prepare(read_photo(photo), spec.preprocess, shape)
        yield photo.stem, dict(engine.run({name: tensor})), spec, placement


def apart(a: Poses, b: Poses) -> float:
    """The greatest distance between key points; infinite where people or parts differ."""
    if len(a.people) != len(b.people):
        return float("inf")
    worst = 0.0
    for one, other in zip(a.people, b.people, strict=True):
        if ((one.keypoints[:, 2] > 0) != (other.keypoints[:, 2] > 0)).any():
            return float("inf")
        worst = max(worst, float(np.abs(one.keypoints - other.keypoints)[:, :2].max()))
    return worst


def in_turns(decoders: Sequence[Callable[[], object]], rounds: int) -> Array:
    """Milliseconds [decoders, rounds]."""
    seconds = np.zeros((len(decoders), rounds))
    for turn in range(rounds):
        for i, decoder in enumerate(decoders):
            decoder()  # its own data in the caches
            start = time.perf_counter()
            decoder()
            seconds[i, turn] = time.perf_counter() - start
    return 1e3 * seconds


def main(given: Any) -> None:
    """Print the table, a row as soon as it is measured."""
    height, width = (int(extent) for extent in given.size.split("x"))
    columns = ["maps", "people", "NumPy", "fused", "kernels", "NumPy / fused", "apart"]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|", flush=True)
    maps = list(crowds([int(count) for count in given.people.split(",")], (height, width)))
    if given.network:
        maps += photographed(given.network[0], given.network[1:], (height, width))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "decoder"
        write_decoder(load_skeleton("coco18"), (height, width), load_target(given.target), path)
        engine = open_bundle(path, threads=1)
        fused = FusedDecoder(engine)
        for name, outputs, spec, placement in maps:
            decoders: list[Callable[[], Poses]] = [
                partial(d, outputs, spec, placement) for d in (decode, fused)
            ]
            by_numpy, by_kernels = (decoder() for decoder in decoders)
            feeds = fused.feeds(outputs, spec, DecodeOptions())
            kernels = sum(layer.ms for layer in engine.profile(feeds, given.rounds))
            ms = in_turns(decoders, given.rounds)
            low, ratio, high = np.percentile(ms[0] / ms[1], (10, 50, 90))
            numpy_ms, fused_ms = np.median(np.asarray(ms, np.float64), axis=1)
            cells = (
                name,
                len(by_kernels.people),
                *(f"{numpy_ms:.2f}", f"{fused_ms:.2f}", f"{kernels:.3f}"),
                f"{ratio:.1f} ({low:.1f} … {high:.1f})",
                f"{apart(by_numpy, by_kernels):.0e}",
            )
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", default="1,10,30,60", help="sizes of crowds: 1,10")
    parser.add_argument("--size", default="46x82", help="height and width of the maps")
    parser.add_argument("--target", choices=("cpu", "opencl"), default="cpu")
    parser.add_argument("--network", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=30)
    main(parser.parse_args())
