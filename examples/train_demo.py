"""Train a small pose network that learns from a larger one, without labels.

    MALLOC_MMAP_MAX_=0 python examples/train_demo.py PHOTOS TEACHER.onnx FOLDER

First the teacher, Lightweight OpenPose or another network of coco18 maps, sees every photo at two
sizes. Then the network, whose weights start at random, learns to answer the same on crops of these,
turned, mirrored, scaled and in other colours. Two of the teacher's layers are learnt too, through
projections that are thrown away (FitNets: Romero et al., ICLR 2015). A tenth of the crops show
mannequins that `draw_demo.py` paints.

Everything is kept in FOLDER. Where it was interrupted, the same command goes on; FOLDER/demo.onnx
is the network so far. PyTorch's CPU build will do. The variable keeps the memory of large tensors
from being returned and fetched again, which can take longer than training.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.utils
import torch
import torch.fx
from draw_demo import PARTS, SKELETON, STRIDE, random_scene, target_maps
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (as PyTorch's users call it)
from torch.utils.data import DataLoader, IterableDataset

from graphopt.ir.files import replacing
from graphopt.pose.detect import detect_pose_spec
from graphopt.pose.map_slices import MapSlice
from graphopt.pose.preprocess import prepare
from graphopt.pose.spec import METADATA_KEY, PoseSpec, Preprocess
from graphopt.runtime.engine import OnnxRuntimeEngine

HEAT, PAF = PARTS + 1, SKELETON.paf_channels
SPEC = PoseSpec(
    preprocess=Preprocess(color="rgb", mean=(127.5,) * 3, scale=(1 / 127.5,) * 3),
    skeleton=SKELETON,
    heat=MapSlice(output="heat", count=HEAT),
    paf=MapSlice(output="paf", count=PAF),
    stride=STRIDE,
)
"""What the network expects and answers; the ONNX file carries it, so that no flag is needed."""

HEIGHTS = (368, 288)
"""The photos' heights that the teacher sees, in pixels."""
CROP = 288
"""Height and width of what the network learns from, in pixels."""
BATCH = 8
RATE = 1.5e-3
"""The highest learning rate: reached in 300 steps, then falling to zero."""
STAGES = (0.12, 0.3, 1.0)
"""The parts of all crops by which the near layer alone, the far one besides, and everything has
been learnt: what is near learns too slowly together with the rest."""


# --- The network --------------------------------------------------------------------------------


def unit(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    dilation: int = 1,
    group: int = 1,
    swish: bool = True,
) -> nn.Sequential:
    """Convolution, BatchNormalization and Swish."""
    border = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, border, dilation, group, bias=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs))
    if swish:
        layers["swish"] = nn.SiLU()
    return nn.Sequential(layers)


class Residual(nn.Module):
    """What a 1x1, a wider and another 1x1 convolution add to their input."""

    def __init__(self, width: int, narrow: int, kernel: int = 3, dilation: int = 1) -> None:
        super().__init__()
        self.squeeze = unit(width, narrow)
        self.look = unit(narrow, narrow, kernel, dilation=dilation)
        self.widen = unit(narrow, width, swish=False)
        nn.init.constant_(self.widen.norm.weight, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.widen(self.look(self.squeeze(x)))


class PoseNet(nn.Module):
    """A first draft of the maps, and one refinement."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            unit(3, 24, 3, stride=2),
            unit(24, 64, 3, stride=2),
            Residual(64, 32),
            Residual(64, 32),
            unit(64, 128, 3, stride=2),
        )
        self.near = nn.Sequential(Residual(128, 64), Residual(128, 64))
        self.trunk = nn.Sequential(
            *(Residual(128, 64, dilation=dilation) for dilation in (2, 1, 2, 1, 3, 1))
        )
        self.features = unit(128, 96)
        self.draft = nn.Sequential(unit(96, 96, 3, group=96), unit(96, 128))
        self.draft_heat = nn.Conv2d(128, HEAT, 1)
        self.draft_paf = nn.Conv2d(128, PAF, 1)
        self.join = unit(96 + HEAT + PAF, 96)
        self.refine = nn.Sequential(Residual(96, 40, 7), Residual(96, 40, 7))
        self.heat = nn.Conv2d(96, HEAT, 1)
        self.paf = nn.Conv2d(96, PAF, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self.maps(self.features(self.trunk(self.near(self.stem(image)))))

    def maps(self, features: Tensor) -> dict[str, Tensor]:
        """The maps of both stages."""
        draft = self.draft(features)
        draft_heat, draft_paf = self.draft_heat(draft), self.draft_paf(draft)
        refined = self.refine(self.join(torch.cat([features, draft_heat, draft_paf], 1)))
        return {
            "draft_heat": draft_heat,
            "draft_paf": draft_paf,
            "heat": self.heat(refined),
            "paf": self.paf(refined),
        }


# --- ONNX ---------------------------------------------------------------------------------------


def as_onnx(net: PoseNet) -> onnx.ModelProto:
    """The network as a model; every node and tensor has the name of the module that it is."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    known: dict[Any, str] = {}

    def add(op: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=f"{output}/{op}", **attributes))
        return output

    def constant(name: str, values: Tensor) -> str:
        constants.append(numpy_helper.from_array(values.detach().float().numpy().copy(), name))
        return name

    def written(module: nn.Module, x: str, name: str) -> str:
        if isinstance(module, nn.Conv2d):
            inputs = [x, constant(f"{name}.weight", module.weight)]
            if module.bias is not None:
                inputs.append(constant(f"{name}.bias", module.bias))
            return add(
                "Conv",
                inputs,
                name,
                kernel_shape=module.kernel_size,
                strides=module.stride,
                pads=module.padding * 2,
                dilations=module.dilation,
                group=module.groups,
            )
        if isinstance(module, nn.BatchNorm2d):
            names = ("weight", "bias", "running_mean", "running_var")
            values = [constant(f"{name}.{n}", getattr(module, n)) for n in names]
            return add("BatchNormalization", [x, *values], name)
        assert isinstance(module, nn.SiLU)
        return add("Mul", [x, add("Sigmoid", [x], f"{name}.gate")], name)

    traced = torch.fx.symbolic_trace(net)
    for node in traced.graph.nodes:
        inputs = [known[n] for n in node.all_input_nodes if n in known]
        if node.op == "placeholder":
            known[node] = node.name
        elif node.op == "call_module":
            known[node] = written(traced.get_submodule(node.target), inputs[0], node.target)
        elif node.target is torch.cat:
            known[node] = add("Concat", inputs, "joined", axis=1)
        elif node.op == "call_function":
            # A residual's sum bears its last summand's name, less the layer.
            known[node] = add("Add", inputs, inputs[1].rsplit(".", 2)[0])
    return _as_model(nodes, constants)


def _as_model(
    nodes: Sequence[onnx.NodeProto], constants: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    """A model of these nodes, from `image` to `heat` and `paf`; it says how it is to be read."""
    cells = [f"height/{STRIDE}", f"width/{STRIDE}"]
    graph = helper.make_graph(
        nodes,
        "demo",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "height", "width"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, *cells])
            for name, channels in {"heat": HEAT, "paf": PAF}.items()
        ],
        constants,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="train_demo.py",
    )
    helper.set_model_props(model, {METADATA_KEY: SPEC.to_json(), "license": "Apache-2.0"})
    onnx.checker.check_model(model, full_check=True)
    return model


# --- What there is to learn ---------------------------------------------------------------------


class Teacher:
    """A network of coco18 maps and one of its layers.

    Args:
        path: the ONNX file.
        layer: a tensor at stride 8.
        alone: the layer is all that is computed, by one thread.
    """

    def __init__(self, path: Path, layer: str, *, alone: bool = False) -> None:
        self._layer, self._alone = layer, alone
        self.spec = detect_pose_spec(path)
        model = onnx.load(path)
        outputs = [] if alone else [output.name for output in model.graph.output]
        names = [graph_input.name for graph_input in model.graph.input]
        shapeless = helper.make_tensor_value_info(layer, TensorProto.FLOAT, None)
        model.graph.value_info.append(shapeless)
        part = onnx.utils.Extractor(model).extract_model(names, [*outputs, layer])
        self._engine = OnnxRuntimeEngine(part.SerializeToString(), threads=int(alone))

    def __call__(self, feed: NDArray[np.float32]) -> NDArray[np.float32]:
        """Heat maps, PAFs and the layer [channels, H/8, W/8] for a normalised picture."""
        answers = self._engine.run({next(iter(self._engine.inputs)): feed})
        if self._alone:
            return np.asarray(answers[self._layer][0], np.float32)
        assert self.spec.paf is not None
        maps = [self.spec.heat.of(answers), self.spec.paf.of(answers), answers[self._layer][0]]
        return np.concatenate(maps)

    @property
    def _affine(self) -> tuple[list[int], NDArray[np.float32], NDArray[np.float32]]:
        """The channels' order, and mean and scale [3, 1, 1], with which it takes RGB."""
        ways = self.spec.preprocess
        mean, scale = (np.array(v, np.float32)[:, None, None] for v in (ways.mean, ways.scale))
        return [0, 1, 2] if ways.color == "rgb" else [2, 1, 0], mean, scale

    def normalised(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """[1, 3, H, W]: what it takes for RGB [3, H, W] from 0 to 255."""
        order, mean, scale = self._affine
        return ((pixels[order] - mean) * scale)[None]

    def pixels(self, feed: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inverse."""
        order, mean, scale = self._affine
        return np.asarray((feed[0] / scale + mean)[order])


def see(photos: Sequence[Path], teacher: Teacher, folder: Path) -> None:
    """Keep what the teacher answers on each photo at each height; every second one is mirrored."""
    for turn, height in enumerate(HEIGHTS):
        for number, path in enumerate(track(photos, f"the teacher at height {height}")):
            name = f"{path.stem}.{height}"
            if (folder / f"{name}.maps.npy").exists():
                continue
            photo = Image.open(path).convert("RGB")
            if (number + turn) % 2:
                photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            feed, _ = prepare(photo, teacher.spec.preprocess, height=height)
            pixels, maps = teacher.pixels(feed), teacher(feed)
            keep(folder, name, pixels.transpose(1, 2, 0), maps.transpose(1, 2, 0))


def draw(count: int, folder: Path) -> None:
    """Keep so many pictures of mannequins, with maps that nobody had to guess."""
    rng = np.random.default_rng(7)
    for number in track(range(count), "mannequins"):
        size = (256, 320)
        scene = random_scene(rng, size, 1 + number % 2)
        keep(folder, f"{number}.painted", scene.pixels, target_maps(scene.figures, size))


def keep(folder: Path, name: str, pixels: NDArray[Any], maps: NDArray[Any]) -> None:
    """Write a picture [H, W, 3] and its maps [H/8, W/8, heat + PAF + layer]; the maps last."""
    np.save(folder / f"{name}.pixels.npy", np.round(pixels).clip(0, 255).astype(np.uint8))
    with replacing(folder / f"{name}.maps.npy") as fresh, fresh.open("wb") as file:
        np.save(file, maps.astype(np.float16))


def _mirrored_channels() -> list[int]:
    """For each heat map and PAF channel, the one that shows the same in a mirrored picture."""
    parts = [*SKELETON.mirrors, PARTS]
    by_ends = {SKELETON.ends(limb): limb.paf or () for limb in SKELETON.paf_limbs}
    paf = [0] * PAF
    for (start, end), channels in by_ends.items():
        mirror = by_ends[parts[start], parts[end]]
        for own, other in zip(channels, mirror, strict=True):
            paf[own] = HEAT + other
    return [*parts, *paf]


MIRRORED = _mirrored_channels()
PAF_X, PAF_Y = (
    [HEAT + limb.paf[axis] for limb in SKELETON.paf_limbs if limb.paf] for axis in (0, 1)
)


class Crops(IterableDataset):
    """Endless random crops.

    Each is a picture [3, S, S], the maps wanted [heat + PAF, S/8, S/8], the teacher's near layer
    and its far layer [channels, S/8, S/8], and whether the latter is known.

    Args:
        folder: what `keep` wrote: maps and the far layer.
        near: makes the teacher of the near layer, in the process that needs it.
        painted: the share of mannequins.
        seed: of everything random.
    """

    def __init__(
        self, folder: Path, near: Callable[[], Teacher], painted: float, seed: int
    ) -> None:
        self._photos = [f for h in HEIGHTS for f in sorted(folder.glob(f"*.{h}.maps.npy"))]
        self._painted = sorted(folder.glob("*.painted.maps.npy"))
        self._near, self._share, self._seed = near, painted, seed
        self.far = np.load(self._photos[0], mmap_mode="r").shape[2] - HEAT - PAF

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        torch.set_num_threads(1)
        torch.manual_seed(self._seed)
        self._rng = np.random.default_rng(self._seed)
        self._teacher = self._near()
        while True:
            painted = self._rng.random() < self._share
            files = self._painted if painted else self._photos
            yield self._crop(files[self._rng.integers(len(files))], painted)

    def _crop(self, file: Path, painted: bool) -> tuple[Tensor, ...]:
        maps = torch.from_numpy(np.load(file)).float()
        pixels = np.load(file.with_name(file.name.replace(".maps.", ".pixels.")))
        turn, zoom = np.eye(2), 1.0
        middle = self._middle(maps)
        size = np.array(pixels.shape[1::-1])
        slack = np.maximum(size - CROP, 0) / 2 + 16
        middle = np.clip(middle, size / 2 - slack, size / 2 + slack)
        if self._rng.random() < 0.6:
            angle = self._rng.normal(0, 0.2)
            zoom = np.exp(self._rng.uniform(-0.7 if painted else -0.3, 0.25))
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        else:  # on the maps' grid
            middle = np.round((middle - CROP / 2) / STRIDE) * STRIDE + CROP / 2
        # Of a mannequin, colours say which side is which.
        mirrored = not painted and self._rng.random() < 0.5
        if mirrored:
            turn[:, 0] *= -1
        theta = np.column_stack([turn * CROP / zoom / size[:, None], 2 * middle / size - 1])

        def cut(values: Tensor, extent: int, mode: str) -> Tensor:
            place = torch.from_numpy(theta.astype(np.float32))[None]
            grid = F.affine_grid(place, [1, 1, extent, extent], align_corners=False)
            picture = values.permute(2, 0, 1)[None]
            return F.grid_sample(picture, grid, mode=mode, align_corners=False)[0]

        image = cut(torch.from_numpy(pixels).float() / 127.5 - 1, CROP, "bilinear")
        near = self._teacher(self._teacher.normalised(127.5 * image.numpy() + 127.5))
        maps[..., PARTS] -= 1  # background is what lies outside the photo
        wanted = cut(maps[..., : HEAT + PAF], CROP // STRIDE, "bicubic")
        wanted[PARTS] += 1
        x, y = wanted[PAF_X], wanted[PAF_Y]
        wanted[PAF_X] = turn[0, 0] * x + turn[1, 0] * y
        wanted[PAF_Y] = turn[0, 1] * x + turn[1, 1] * y
        if mirrored:
            wanted = wanted[MIRRORED]
        if painted:
            far = torch.zeros(self.far, *wanted.shape[1:])
        else:
            far = cut(maps[..., HEAT + PAF :], CROP // STRIDE, "bilinear")
        known = torch.tensor(not painted and not mirrored)
        return self._recolored(image), wanted, torch.from_numpy(near), far, known

    def _middle(self, maps: Tensor) -> NDArray[np.float64]:
        """Where a crop's middle is, in pixels: mostly near somebody."""
        rows, columns = maps.shape[:2]
        if self._rng.random() < 0.15:
            return self._rng.uniform((0, 0), (STRIDE * columns, STRIDE * rows))
        people = maps[..., :PARTS].amax(dim=2).clamp(min=0.02).square()
        cell = int(torch.multinomial(people.flatten(), 1))
        near = STRIDE * np.array([cell % columns, cell // columns])
        return np.asarray(near + self._rng.uniform(-0.4, 0.4, 2) * CROP)

    def _recolored(self, image: Tensor) -> Tensor:
        rng = self._rng
        gray = image.mean(dim=0, keepdim=True)
        image = gray + (image - gray) * (0.0 if rng.random() < 0.05 else rng.uniform(0.5, 1.4))
        tint = torch.from_numpy(rng.uniform(-0.08, 0.08, (3, 1, 1)).astype(np.float32))
        image = image * rng.uniform(0.65, 1.3) + rng.uniform(-0.2, 0.2) + tint
        if rng.random() < 0.3:
            image = image + torch.randn_like(image) * rng.uniform(0, 0.08)
        return image.clamp(-1, 1)


# --- Training -----------------------------------------------------------------------------------


class Pupil(nn.Module):
    """The network, and projections of its features to the teacher's layers."""

    def __init__(self, near: int, far: int) -> None:
        super().__init__()
        self.net = PoseNet()
        self.to_near, self.to_far = nn.Conv2d(128, near, 1), nn.Conv2d(96, far, 1)
        self.near = nn.BatchNorm2d(near, affine=False)
        self.far = nn.BatchNorm2d(far, affine=False)

    def loss(
        self,
        image: Tensor,
        wanted: Tensor,
        near: Tensor,
        far: Tensor,
        known: Tensor,
        depth: int = len(STAGES),
    ) -> Tensor:
        """How far the answers are from what is wanted; 5 for a network that answers nothing.

        Only the near layer's with `depth` 1, that and the far layer's with 2.
        """
        net = self.net
        with torch.autocast("cpu", dtype=torch.bfloat16):
            seen = net.near(net.stem(image.contiguous(memory_format=torch.channels_last)))
            to_near = self.to_near(seen)
        total = ((to_near.float() - self.near(near)) ** 2).mean()
        if depth == 1:
            return total
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = net.features(net.trunk(seen))
            to_far = self.to_far(features)
        if known.any():
            total = total + ((to_far[known].float() - self.far(far[known])) ** 2).mean()
        if depth == 2:
            return total
        with torch.autocast("cpu", dtype=torch.bfloat16):
            answers = net.maps(features)
        heat, paf = wanted[:, :HEAT], wanted[:, HEAT:]
        somebody = torch.cat([heat[:, :PARTS], 1 - heat[:, PARTS:]], 1)
        for stage, share in (("draft_", 0.5), ("", 1.0)):
            # The last numbers are what the errors of a network that answers nothing are.
            for kind, target, shown, usual in (
                ("heat", heat, somebody, 0.006),
                ("paf", paf, paf, 0.011),
            ):
                error = (answers[f"{stage}{kind}"].float() - target) ** 2
                total = total + share * ((1 + 10 * shown.abs()) * error).mean() / usual
        return total


class Training:
    """A pupil, its running average and an optimiser, as far as FOLDER/checkpoint.pt has come."""

    def __init__(self, folder: Path, near: int, far: int) -> None:
        self._folder = folder
        torch.manual_seed(0)
        self.pupil = Pupil(near, far).to(memory_format=torch.channels_last)
        self._average = copy.deepcopy(self.pupil)
        weights = [p for p in self.pupil.parameters() if p.ndim > 1]
        others = [p for p in self.pupil.parameters() if p.ndim <= 1]
        self._optimizer = torch.optim.AdamW(
            [{"params": weights, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
            betas=(0.9, 0.99),
            fused=True,
        )
        self.step = 0
        if (folder / "checkpoint.pt").exists():
            state = torch.load(folder / "checkpoint.pt")
            self.pupil.load_state_dict(state["pupil"])
            self._average.load_state_dict(state["average"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def learn(self, batch: Sequence[Tensor], rate: float, depth: int) -> float:
        """One step; the loss before it."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss = self.pupil.loss(*batch, depth=depth)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.pupil.parameters(), 5.0)
        self._optimizer.step()
        self.step += 1
        share = 1 - min(0.998, self.step / (self.step + 9))
        states = self._average.state_dict(), self.pupil.state_dict()
        for average, value in zip(*(state.values() for state in states), strict=True):
            if average.is_floating_point():
                average.lerp_(value, share)
        return float(loss.detach())

    def store(self) -> None:
        """Write the checkpoint, and the average as demo.onnx."""
        with replacing(self._folder / "checkpoint.pt") as fresh:
            parts = {"pupil": self.pupil, "average": self._average, "optimizer": self._optimizer}
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**state, "step": self.step}, fresh)
        with replacing(self._folder / "demo.onnx") as fresh:
            onnx.save(as_onnx(self._average.net), fresh)


def train(folder: Path, near: Callable[[], Teacher], crops: int, painted: float) -> None:
    """Train until so many crops were seen, counted from the first start."""
    blank = np.zeros((1, 3, STRIDE, STRIDE), np.float32)
    data = Crops(folder, near, painted, seed=0)
    training, steps = Training(folder, near()(blank).shape[0], data.far), crops // BATCH
    data = Crops(folder, near, painted, seed=training.step)
    lessons = DataLoader(data, BATCH, num_workers=1)
    began, first = time.monotonic(), training.step
    losses: list[float] = []
    for batch in itertools.islice(lessons, max(steps - first, 0)):
        done = training.step / steps
        depth = 1 + sum(done >= end for end in STAGES[:-1])
        rate = RATE * min(1, (training.step + 1) / 300) * (1 - done)
        losses.append(training.learn(batch, rate, depth))
        if training.step % 200 == 0 or training.step == steps:
            training.store()
            speed = BATCH * (training.step - first) / (time.monotonic() - began)
            print(
                f"step {training.step}: loss {np.mean(losses):.3f}, {speed:.1f} crops/s", flush=True
            )
            losses.clear()


def main() -> None:
    """Let the teacher see, draw, and train."""
    parser = argparse.ArgumentParser(description="Train a small pose network after a teacher.")
    parser.add_argument("photos", type=Path, help="folder of photos with people")
    parser.add_argument("teacher", type=Path, help="an ONNX file with coco18 maps at stride 8")
    parser.add_argument("folder", type=Path, help="where everything is kept")
    for name, usual in (("near", "relu4_1/sep"), ("far", "relu4_4_CPM")):
        parser.add_argument(
            f"--{name}",
            metavar="TENSOR",
            default=usual,
            help=f"the teacher's {name} layer at stride 8 (default: Lightweight OpenPose's)",
        )
    parser.add_argument("--crops", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument(
        "--painted", type=float, default=0.1, help="share of mannequins (default: %(default)s)"
    )
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    see(sorted(args.photos.iterdir()), Teacher(args.teacher, args.far), args.folder)
    if not any(args.folder.glob("*.painted.maps.npy")):
        draw(500, args.folder)
    near = functools.partial(Teacher, args.teacher, args.near, alone=True)
    train(args.folder, near, args.crops, args.painted)


if __name__ == "__main__":
    main()
