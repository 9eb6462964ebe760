"""Train a pose network on annotated photos, from random weights.

    graphopt zoo build lightweight-openpose -o start.onnx --input-shape 1,3,256,256
    python examples/train.py start.onnx --images train2017/
        --annotations person_keypoints_train2017.json -o trained.onnx --steps 100000
    graphopt eval trained.onnx --images val2017/ --annotations person_keypoints_val2017.json

Any ONNX network with heat maps and part affinity fields (PAFs) will do whose operators
`graphopt.fitting.torchnet` knows, at the input size that it was built with; pip install
'graphopt[distill]'. The maps that it is to give are those of Cao et al. (CVPR 2017, section 2): a
bump for each key point, a band for each limb; all stages are trained (section 2.1 there). Where
people are whose key points nobody marked, nothing is asked. Photos are mirrored at random, and that
is all: a published accuracy takes more kinds of variation, and days on a GPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from numpy.typing import NDArray

from graphopt.fitting.torchnet import TorchNet
from graphopt.ir.graph import label
from graphopt.ir.onnx_io import load_model, save_model
from graphopt.pose.detect import detect_pose_spec
from graphopt.pose.images import read_photo
from graphopt.pose.preprocess import Placement, prepare
from graphopt.pose.spec import PoseSpec
from graphopt.pose.synthetic import draw_maps
from graphopt.sparsity.function_blocks import function_blocks

Floats = NDArray[Any]


@dataclass(frozen=True)
class Photo:
    """An annotated photo."""

    path: Path
    people: Sequence[Mapping[str, Any]]
    """COCO's annotations."""


@dataclass(frozen=True)
class Example:
    """What a network sees and what it is to answer."""

    image: Floats
    """[3, height, width]"""
    heat: Floats
    """[parts and background, h, w]"""
    paf: Floats
    """[channels, h, w]"""
    asked: Floats
    """[1, h, w]: 1 where the answer is known, 0 where not."""


def photos_of(annotations: Path, folder: Path) -> list[Photo]:
    """The photos of a COCO key-point file that show somebody, and are in the folder."""
    truth = json.loads(annotations.read_text(encoding="utf-8"))
    people: dict[int, list[Any]] = {}
    for person in truth["annotations"]:
        people.setdefault(person["image_id"], []).append(person)
    paths = {image["id"]: folder / image["file_name"] for image in truth["images"]}
    return [Photo(path, people[i]) for i, path in paths.items() if i in people and path.is_file()]


def keypoints(person: Mapping[str, Any], spec: PoseSpec, placement: Placement) -> Floats:
    """Somebody's parts [parts, 2] in the maps' pixels; nan where nobody marked one."""
    marked = np.array(person["keypoints"], float).reshape(-1, 3)
    # COCO counts from the corner of the first pixel.
    coco = np.where(marked[:, 2:] > 0, placement.to_input(marked[:, :2] - 0.5), np.nan)
    points = np.full((len(spec.skeleton.parts), 2), np.nan)
    known = spec.skeleton.to_coco >= 0
    points[spec.skeleton.to_coco[known]] = coco[known]
    index = spec.skeleton.index
    if "neck" in index:
        points[index["neck"]] = (
            points[index["left_shoulder"]] + points[index["right_shoulder"]]
        ) / 2
    return (points + 0.5) / spec.stride - 0.5


def example(photo: Photo, spec: PoseSpec, size: tuple[int, int], mirrored: bool) -> Example:
    """A photo as a network of an input of `size` is to see and to answer it."""
    batch, placement = prepare(read_photo(photo.path), spec.preprocess, size)
    rows, columns = (extent // spec.stride for extent in size)
    people, asked = [], np.ones((rows, columns), np.float32)
    for person in photo.people:
        if person["iscrowd"] or not person["num_keypoints"]:
            x, y, width, height = person["bbox"]
            corners = placement.to_input(np.array([[x, y], [x + width, y + height]]) - 0.5)
            edges = np.maximum((corners + 0.5) / spec.stride, 0)
            (left, top), (right, bottom) = np.floor(edges[0]), np.ceil(edges[1])
            asked[int(top) : int(bottom), int(left) : int(right)] = 0
        else:
            people.append(keypoints(person, spec, placement))
    image = batch[0]
    if mirrored:
        image, asked = image[:, :, ::-1].copy(), asked[:, ::-1].copy()
        people = [(points * (-1, 1) + (columns - 1, 0))[spec.skeleton.mirrors] for points in people]
    heat, paf = draw_maps(people, spec.skeleton, (rows, columns))
    background = 1 - heat.max(axis=0, keepdims=True)
    return Example(image, np.concatenate([heat, background]), paf, asked[None])


def batches(
    photos: Sequence[Photo],
    spec: PoseSpec,
    size: tuple[int, int],
    count: int,
    rng: np.random.Generator,
) -> Iterator[list[Example]]:
    """Photos in a random order, again and again, `count` at a time."""
    order: list[int] = []
    while True:
        while len(order) < count:
            order += rng.permutation(len(photos)).tolist()
        chosen, order = order[:count], order[count:]
        yield [example(photos[i], spec, size, bool(rng.integers(2))) for i in chosen]


def all_stages(graph: gs.Graph, spec: PoseSpec) -> dict[str, str]:
    """Every stage's maps by name, `heat` or `paf`; they become outputs of the graph."""
    predictors = function_blocks(graph, spec).predictors
    kinds = {spec.heat.count: "heat", spec.paf.count if spec.paf else 0: "paf"}
    found = {}
    for node in graph.nodes:
        if label(node) in predictors:
            tensor = node.outputs[0]
            found[tensor.name] = kinds[tensor.shape[1]]
            if all(output is not tensor for output in graph.outputs):
                graph.outputs.append(tensor)
    return found


def loss_of(
    outputs: Mapping[str, torch.Tensor], maps: Mapping[str, str], lessons: Sequence[Example]
) -> torch.Tensor:
    """Squared errors over all stages' maps, a photo's sum, where they are asked for."""
    wanted = {
        name: torch.from_numpy(np.stack([getattr(lesson, name) for lesson in lessons]))
        for name in ("heat", "paf", "asked")
    }
    errors = [
        ((outputs[name] - wanted[kind]) ** 2 * wanted["asked"]).sum() for name, kind in maps.items()
    ]
    return sum(errors, torch.zeros(())) / len(lessons)


def main(given: argparse.Namespace) -> None:
    """Train, and write the network."""
    graph = load_model(given.network)
    spec = detect_pose_spec(graph)
    outputs = list(graph.outputs)
    maps = all_stages(graph, spec)
    torch.manual_seed(given.seed)
    net = TorchNet(graph, norms=True)
    optimiser = torch.optim.Adam(net.parameters(), lr=given.rate)
    photos = photos_of(given.annotations, given.images)[: given.limit]
    print(f"{len(photos)} photos, {len(maps)} maps")
    image = graph.inputs[0]
    lessons = batches(
        photos, spec, tuple(image.shape[2:]), given.batch, np.random.default_rng(given.seed)
    )
    for step in range(1, given.steps + 1):
        batch = next(lessons)
        feeds = {image.name: torch.from_numpy(np.stack([lesson.image for lesson in batch]))}
        loss = loss_of(net(feeds), maps, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % given.report == 0 or step == given.steps:
            print(f"step {step} of {given.steps}: {loss.item():.2f} a photo", flush=True)
    net.write_back()
    graph.outputs = outputs
    save_model(graph, given.output)
    print(given.output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", type=Path, metavar="START.onnx")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR")
    parser.add_argument("--annotations", type=Path, required=True, metavar="F.json")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.onnx")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-4, help="of Adam")
    parser.add_argument("--limit", type=int, help="only the first so many photos")
    parser.add_argument("--report", type=int, default=10, help="steps between two lines")
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())
