"""Make `demo.onnx` and `demo.png`: a pose network that works, from nothing but arithmetic.

    python examples/make_demo.py [FOLDER]

The network finds the painted mannequins that this script draws, and nothing else: it is no
detector of people. It exists so that every command can be tried, and tested, without downloading a
trained network. It has the form of one (coco18 skeleton, 19 heat maps and 38 part affinity fields
at stride 8, any height and width) and something for every pass to do: BatchNormalization after
each convolution, Swish as Sigmoid and Mul, a residual block, a dilated 3x3 and a 7x7 convolution.

How it works. A mannequin's joints are discs of 18 colours; a limb is a bar with a light half to
its right and a dark half to its left, in a hue of its own. So what a pixel shows says which joint
or limb it is, and the step from dark to light, turned by 90 degrees, says where the limb points:
local appearance suffices. Nothing is trained by gradient descent. The first layers are random
(an extreme learning machine: Huang et al., Neurocomputing 2006), and the layers that matter
are least squares in closed form, each on the features that the layers before it give:

    picture -> stem, depthwise, 1x1 (random) -> 1x1 (fitted: which surface is it?)   stride 2
            -> two binomial blurs                                                    stride 8
            -> residual block and dilated 3x3 for context (random)
            -> 7x7, 1x1 (fitted: heat maps) and 3x3 (fitted: part affinity fields)
"""

from __future__ import annotations

import argparse
import colorsys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import correlate1d

from graphopt.pose.skeleton import load_skeleton
from graphopt.pose.spec import METADATA_KEY, MapSlice, PoseSpec, Preprocess

Floats = NDArray[Any]
Size = tuple[int, int]
"""Width and height, in pixels."""

SKELETON = load_skeleton("coco18")
PARTS = len(SKELETON.parts)
LIMBS = [limb for limb in SKELETON.paf_limbs if not limb.bridge]
"""The limbs that are painted; nobody can see where a shoulder joins an ear."""
STRIDE = 8
SIGMA = 7.0
"""Width in pixels of a joint's bump and of a limb's ridge in the target maps."""

SPEC = PoseSpec(
    preprocess=Preprocess(color="rgb", mean=(127.5,) * 3, scale=(1 / 127.5,) * 3),
    skeleton=SKELETON,
    heat=MapSlice(output="heat", count=PARTS + 1),
    paf=MapSlice(output="paf", count=SKELETON.paf_channels),
    stride=STRIDE,
)
"""What the network expects and answers; the ONNX file carries it, so that no flag is needed."""

# Surfaces: what a pixel can show. Joints come first, then limbs' light halves, then dark halves.
LIGHT, DARK = PARTS, PARTS + len(LIMBS)
HEAD, SHIRT = DARK + len(LIMBS), DARK + len(LIMBS) + 1
SURFACES = SHIRT + 1
NOTHING = 255


def _color(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    r, g, b = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * r), round(255 * g), round(255 * b)


PALETTE = [
    # 7 is coprime to 18: neighbouring joints get distant hues.
    *(_color(7 * j / PARTS, 1.0, 1.0) for j in range(PARTS)),
    *(_color(k / len(LIMBS), 0.5, 1.0) for k in range(len(LIMBS))),
    *(_color(k / len(LIMBS), 0.9, 0.6) for k in range(len(LIMBS))),
    (250, 228, 200),
    (246, 246, 250),
]
"""A surface's colour."""


# --- Mannequins ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mannequin:
    """A posed figure, facing us: its right hand is on the left of the picture.

    Lengths are in torsos (neck to mid-hip). Angles are in radians: 0 hangs down, positive turns
    outwards for limbs and towards the picture's right for `lean` and `tilt`. A forearm's and a
    shin's angle is counted from the bone above it.
    """

    neck: tuple[float, float]
    torso: float
    lean: float = 0.0
    tilt: float = 0.0
    width: float = 1.0
    arms: tuple[tuple[float, float], tuple[float, float]] = ((0.4, 0.2), (0.4, 0.2))
    """Upper arm and forearm, of the right and of the left arm."""
    legs: tuple[tuple[float, float], tuple[float, float]] = ((0.2, -0.1), (0.2, -0.1))
    """Thigh and shin, of the right and of the left leg."""

    @property
    def head(self) -> Floats:
        """[2]: the middle of the head, in pixels."""
        return np.array(self.neck) - 0.62 * self.torso * _down(self.lean + self.tilt)

    @property
    def joints(self) -> Floats:
        """[18, 2]: x and y of each part, in pixels (the first pixel's centre is at 0)."""
        down = _down(self.lean)
        across = np.array([down[1], -down[0]])
        place = {"neck": np.zeros(2)}
        for side, name, arm, leg in zip(
            (-1, 1), ("right", "left"), self.arms, self.legs, strict=True
        ):
            for root, offset, chain in (
                ("shoulder", (0.40 * self.width, 0.04), (("elbow", 0.6), ("wrist", 0.55))),
                ("hip", (0.24 * self.width, 1.0), (("knee", 0.8), ("ankle", 0.75))),
            ):
                at = side * offset[0] * across + offset[1] * down
                place[f"{name}_{root}"] = at
                angle = self.lean
                for (part, length), turn in zip(
                    chain, arm if root == "shoulder" else leg, strict=True
                ):
                    angle += side * turn
                    at = at + length * _down(angle)
                    place[f"{name}_{part}"] = at
        chin = _down(self.lean + self.tilt)
        sideways = np.array([chin[1], -chin[0]])
        middle = -0.62 * chin
        place["nose"] = middle + 0.1 * chin
        for side, name in ((-1, "right"), (1, "left")):
            place[f"{name}_eye"] = middle + side * 0.19 * sideways - 0.1 * chin
            place[f"{name}_ear"] = middle + side * 0.42 * sideways
        body = np.stack([place[part.name] for part in SKELETON.parts])
        return np.array(self.neck) + self.torso * body


def _down(angle: float) -> Floats:
    return np.array([np.sin(angle), np.cos(angle)])


def random_mannequin(rng: np.random.Generator, neck: tuple[float, float]) -> Mannequin:
    """Any pose, 180 to 290 pixels tall."""

    def pair(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
        return rng.uniform(*first), rng.uniform(*second)

    return Mannequin(
        neck=neck,
        torso=rng.uniform(52, 85),
        lean=rng.uniform(-0.25, 0.25),
        tilt=rng.uniform(-0.3, 0.3),
        width=rng.uniform(0.85, 1.1),
        arms=(pair((0.15, 2.7), (-0.6, 1.9)), pair((0.15, 2.7), (-0.6, 1.9))),
        legs=(pair((-0.05, 0.9), (-0.9, 0.1)), pair((-0.05, 0.9), (-0.9, 0.1))),
    )


# --- Painting -----------------------------------------------------------------------------------


def _shapes(figure: Mannequin) -> Iterator[tuple[int, str, list[float]]]:
    """A mannequin's surfaces from back to front: (surface, `polygon` or `ellipse`, corners)."""
    joints, torso = figure.joints, figure.torso

    def disc(surface: int, at: Floats, radius: float) -> tuple[int, str, list[float]]:
        return surface, "ellipse", [*(at - radius * torso), *(at + radius * torso)]

    def bar(number: int, half_width: float) -> Iterator[tuple[int, str, list[float]]]:
        start, end = joints[list(SKELETON.ends(LIMBS[number]))]
        along = (end - start) / np.linalg.norm(end - start)
        for surface, side in ((LIGHT, 1.0), (DARK, -1.0)):
            off = side * half_width * torso * np.array([along[1], -along[0]])
            yield surface + number, "polygon", [*start, *end, *(end + off), *(start + off)]

    trunk = ("right_shoulder", "left_shoulder", "left_hip", "right_hip")
    corners = joints[[SKELETON.index[name] for name in trunk]]
    yield SHIRT, "polygon", list(corners.ravel())

    def limbs(*ends: str) -> list[int]:
        return [k for k, limb in enumerate(LIMBS) if limb.end.endswith(ends)]

    for number in limbs("hip", "knee", "ankle", "nose"):
        yield from bar(number, 0.09)
    yield disc(HEAD, figure.head, 0.42)
    for number in limbs("eye", "ear"):
        yield from bar(number, 0.05)
    for number in limbs("shoulder", "elbow", "wrist"):
        yield from bar(number, 0.09)
    for part, at in enumerate(joints):
        small = SKELETON.parts[part].name.endswith(("nose", "eye", "ear"))
        yield disc(part, at, 0.075 if small else 0.10)


def paint(
    figures: Sequence[Mannequin], canvas: Image.Image, colors: Sequence[Any], zoom: float
) -> None:
    """Paint mannequins on a canvas that has `zoom` pixels for each pixel of their coordinates."""
    draw = ImageDraw.Draw(canvas)
    for figure in figures:
        for surface, kind, corners in _shapes(figure):
            # Pixel centres, not corners, are at whole numbers, at every zoom.
            at = [(c + 0.5) * zoom - 0.5 for c in corners]
            getattr(draw, kind)(at, fill=colors[surface])


def background(rng: np.random.Generator, size: Size) -> Image.Image:
    """A wall and out-of-focus lights in muted colours, brighter than the paint's dark halves."""
    width, height = size
    wall = rng.uniform(165, 235) + rng.uniform(-14, 14, 3)
    canvas = Image.new("RGB", (width // 4, height // 4), tuple(wall.astype(int)))
    draw = ImageDraw.Draw(canvas)
    for _ in range(14):
        x, y = rng.uniform(0, canvas.width), rng.uniform(0, canvas.height)
        radius = rng.uniform(0.03, 0.2) * canvas.height
        shade = wall + rng.uniform(-26, 26) + rng.uniform(-9, 9, 3)
        draw.ellipse(
            [x - radius, y - radius, x + radius, y + radius],
            fill=tuple(shade.clip(0, 255).astype(int)),
        )
    blurred = canvas.filter(ImageFilter.GaussianBlur(canvas.height / 90))
    return blurred.resize(size, Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Scene:
    """A picture and what is on it."""

    pixels: Floats
    """[H, W, 3]: RGB, 0 to 255."""
    figures: list[Mannequin]

    @property
    def batch(self) -> Floats:
        """[1, 3, H, W]: what the network takes."""
        pixels = (self.pixels - SPEC.preprocess.mean) * SPEC.preprocess.scale
        return np.asarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)

    @property
    def surfaces(self) -> Floats:
        """[H, W, surfaces]: 1 where a pixel shows the surface."""
        height, width = self.pixels.shape[:2]
        canvas = Image.new("L", (width, height), NOTHING)
        paint(self.figures, canvas, range(SURFACES), 1)
        shown = np.asarray(canvas)[..., None] == np.arange(SURFACES)
        return np.asarray(shown, dtype=np.float32)


def random_scene(rng: np.random.Generator, size: Size, count: int) -> Scene:
    """`count` mannequins beside each other, on a noisy picture."""
    width, height = size
    figures = [
        random_mannequin(
            rng,
            (
                (i + 0.5 + rng.uniform(-0.1, 0.1)) * width / count,
                rng.uniform(0.30, 0.45) * height,
            ),
        )
        for i in range(count)
    ]
    canvas = background(rng, (3 * width, 3 * height))
    paint(figures, canvas, PALETTE, 3)
    pixels = np.asarray(canvas.resize(size, Image.Resampling.BOX), dtype=np.float32)
    pixels = pixels * rng.uniform(0.85, 1.0)
    noise = rng.normal(0, rng.uniform(1, 7), pixels.shape)
    return Scene((pixels + noise).clip(0, 255).astype(np.float32), figures)


def target_maps(figures: Sequence[Mannequin], size: Size) -> Floats:
    """[H/8, W/8, 57]: what a perfect network answers: 19 heat maps, then 38 PAFs.

    A joint is a Gaussian bump; a PAF is the limb's unit vector on a ridge along it, as in
    Cao et al., CVPR 2017, with a soft edge. The last heat map is what the others leave.
    """
    width, height = size
    rows, columns = height // STRIDE, width // STRIDE
    steps = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)
    cells = steps * STRIDE + (STRIDE - 1) / 2
    maps = np.zeros((rows, columns, PARTS + 1 + SKELETON.paf_channels))
    heat, paf = maps[..., : PARTS + 1], maps[..., PARTS + 1 :]
    for joints in (figure.joints for figure in figures):
        for part, at in enumerate(joints):
            bump = np.exp(-np.sum((cells - at) ** 2, axis=-1) / (2 * SIGMA**2))
            heat[..., part] = np.maximum(heat[..., part], bump)
        for limb in LIMBS:
            start, end = joints[list(SKELETON.ends(limb))]
            length = np.linalg.norm(end - start)
            along = (end - start) / length
            travelled = np.clip((cells - start) @ along, 0, length)
            nearest = start + travelled[..., None] * along
            ridge = np.exp(-np.sum((cells - nearest) ** 2, axis=-1) / (2 * SIGMA**2))
            paf[..., list(limb.paf or ())] += ridge[..., None] * along
    heat[..., PARTS] = 1 - heat[..., :PARTS].max(axis=-1)
    return maps


# --- The network --------------------------------------------------------------------------------


class Builder:
    """An ONNX graph that grows layer by layer and can be run at any time."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self._scenes = scenes
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def _add(self, op: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        self._nodes.append(
            helper.make_node(op, inputs, [output], name=f"{output}/{op}", **attributes)
        )
        return output

    def _constant(self, name: str, values: Floats) -> str:
        array = np.ascontiguousarray(values, dtype=np.float32)
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def conv(
        self,
        x: str,
        name: str,
        weight: Floats,
        *,
        bias: Floats | None = None,
        stride: int = 1,
        dilation: int = 1,
        group: int = 1,
    ) -> str:
        """A convolution that keeps the size (or divides it by the stride); weight [O, I, k, k]."""
        kernel = weight.shape[-1]
        inputs = [x, self._constant(f"{name}.weight", weight)]
        if bias is not None:
            inputs.append(self._constant(f"{name}.bias", bias))
        return self._add(
            "Conv",
            inputs,
            name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[dilation * (kernel // 2)] * 4,
            dilations=[dilation, dilation],
            group=group,
        )

    def norm(self, x: str, *, gain: float = 1.0, mean: float | None = None) -> str:
        """BatchNormalization by the scenes' own statistics; with `mean`, x -> gain (x - mean)."""
        moments = np.array(
            [[y.mean(axis=(0, 1)), (y**2).mean(axis=(0, 1))] for y in self.features(x)]
        ).mean(axis=0)
        average, variance = moments[0], moments[1] - moments[0] ** 2
        if mean is not None:
            average, variance = np.full_like(average, mean), np.ones_like(variance)
        return self._add(
            "BatchNormalization",
            [
                x,
                self._constant(f"{x}.gamma", np.full_like(average, gain)),
                self._constant(f"{x}.beta", np.zeros_like(average)),
                self._constant(f"{x}.mean", average),
                self._constant(f"{x}.variance", variance),
            ],
            f"{x}/norm",
        )

    def swish(self, x: str) -> str:
        """The gate x * sigmoid(x), in the two nodes that exporters write."""
        gate = self._add("Sigmoid", [x], f"{x}/gate")
        return self._add("Mul", [x, gate], f"{x}/swish")

    def add(self, a: str, b: str, name: str) -> str:
        """The sum of two tensors."""
        return self._add("Add", [a, b], name)

    def concat(self, tensors: Sequence[str], name: str) -> str:
        """Tensors after one another along the channels."""
        return self._add("Concat", tensors, name, axis=1)

    def features(self, tensor: str) -> Iterator[Floats]:
        """A tensor's values on each scene, [H, W, C]."""
        session = ort.InferenceSession(
            self.model({tensor: None}).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        for scene in self._scenes:
            yield session.run([tensor], {"image": scene.batch})[0][0].transpose(1, 2, 0)

    def fit(
        self, x: str, targets: Iterable[Floats], kernel: int, damping: float
    ) -> tuple[Floats, Floats]:
        """Weight [O, I, k, k] and bias [O] of the convolution of `x` nearest to [H, W, O] targets.

        Ridge regression through its normal equations, which are summed up scene by scene. Empty
        background is everywhere: one cell in four of it is enough.
        """
        gram: Floats = np.zeros(())
        moment: Floats = np.zeros(())
        count = 0
        for y, target in zip(self.features(x), targets, strict=True):
            padded = np.pad(y, [(kernel // 2, kernel // 2)] * 2 + [(0, 0)])
            windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (0, 1))
            busy = np.abs(target).max(
                axis=-1, where=np.arange(target.shape[-1]) != PARTS, initial=0
            )
            chosen = (busy > 0.02) | (np.arange(busy.size).reshape(busy.shape) % 4 == 0)
            rows = windows[chosen].reshape(chosen.sum(), -1)
            rows = np.hstack([rows, np.ones((len(rows), 1), rows.dtype)])
            gram, moment = gram + rows.T @ rows, moment + rows.T @ target[chosen]
            count += len(rows)
        penalty = np.full(len(gram), damping * count)
        penalty[-1] = 0
        solution = np.linalg.solve(gram + np.diag(penalty), moment).T
        return solution[:, :-1].reshape(len(solution), -1, kernel, kernel), solution[:, -1]

    def model(self, outputs: dict[str, int | None]) -> onnx.ModelProto:
        """The graph so far, as a model with these outputs (name: channels)."""
        cells = [f"height/{STRIDE}", f"width/{STRIDE}"]
        graph = helper.make_graph(
            self._nodes,
            "demo",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "height", "width"])],
            [
                helper.make_tensor_value_info(
                    name, TensorProto.FLOAT, [1, channels, *cells] if channels else None
                )
                for name, channels in outputs.items()
            ],
            self._constants,
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
            producer_name="make_demo.py",
        )


BINOMIAL = np.array([1, 2, 1]) / 4
BLUR = np.outer(BINOMIAL, BINOMIAL)


def _shown(scene: Scene) -> Floats:
    """[H/2, W/2, surfaces]: how much of each surface a pixel of stride 2 shows."""
    blurred = scene.surfaces
    for axis in (0, 1):
        blurred = correlate1d(blurred, BINOMIAL, axis, mode="constant")
    return np.asarray(blurred[::2, ::2])


def make_network(scenes: int = 80, seed: int = 7) -> onnx.ModelProto:
    """The demo network, fitted on that many random scenes (1 or 2 mannequins, 256 x 320)."""
    rng = np.random.default_rng(seed)
    size = (256, 320)
    pictures = [random_scene(rng, size, 1 + i % 2) for i in range(scenes)]
    net = Builder(pictures)

    stem = rng.normal(0, 0.1, (32, 3, 3, 3))
    stem[:24] = rng.normal(0, 0.6, (24, 3, 1, 1)) * BLUR
    x = net.swish(net.norm(net.conv("image", "stem", stem, stride=2)))
    near = np.zeros((32, 1, 3, 3))
    near[24:] = rng.normal(0, 0.15, (8, 1, 3, 3))
    near[:, :, 1, 1] += 1
    x = net.swish(net.norm(net.conv(x, "near", near, group=32)))
    x = net.conv(x, "mix", rng.normal(0, 1, (128, 32, 1, 1)))
    x = net.swish(net.norm(x, gain=1.5))

    weight, bias = net.fit(x, map(_shown, pictures), kernel=1, damping=1e-4)
    x = net.conv(x, "surface", weight, bias=bias)
    x = net.swish(net.norm(x, gain=8.0, mean=0.25))  # only confident answers survive
    blur = np.tile(BLUR, (SURFACES, 1, 1, 1))
    x = net.swish(net.norm(net.conv(x, "blur4", blur, stride=2, group=SURFACES)))
    x = net.norm(net.conv(x, "blur8", blur, stride=2, group=SURFACES))

    spread = rng.normal(0, 0.3, (SURFACES, 1, 3, 3))
    y = net.swish(net.norm(net.conv(x, "residual.spread", spread, group=SURFACES)))
    mix = rng.normal(0, 1, (SURFACES, SURFACES, 1, 1))
    y = net.norm(net.conv(y, "residual.mix", mix), gain=0.02)
    x = net.add(x, y, "residual")
    far = rng.normal(0, 1, (32, SURFACES, 3, 3))
    context = net.swish(net.norm(net.conv(x, "context", far, dilation=2)))

    maps = [target_maps(scene.figures, size) for scene in pictures]
    heat = [m[..., : PARTS + 1] for m in maps]
    paf = [m[..., PARTS + 1 :] for m in maps]
    weight, bias = net.fit(x, heat, kernel=7, damping=3e-5)
    y = net.conv(x, "draft", weight, bias=bias)
    y = net.swish(net.norm(y, gain=20.0, mean=0.12))  # flattens the ripples between the bumps
    weight, bias = net.fit(y, heat, kernel=1, damping=1e-5)
    net.conv(y, "heat", weight, bias=bias)
    x = net.concat([x, context], "evidence")
    weight, bias = net.fit(x, paf, kernel=3, damping=1e-4)
    net.conv(x, "paf", weight, bias=bias)

    model = net.model({"heat": PARTS + 1, "paf": SKELETON.paf_channels})
    helper.set_model_props(model, {METADATA_KEY: SPEC.model_dump_json()})
    onnx.checker.check_model(model, full_check=True)
    return model


# --- The picture --------------------------------------------------------------------------------

DEMO_SIZE = (656, 368)
DEMO_FIGURES = [
    Mannequin(
        neck=(100, 138),
        torso=66,
        lean=0.06,
        tilt=-0.15,
        arms=((2.5, 0.3), (0.5, 0.9)),
        legs=((0.1, -0.1), (0.3, -0.1)),
    ),
    Mannequin(
        neck=(262, 150),
        torso=62,
        lean=0.2,
        tilt=0.1,
        width=0.9,
        arms=((0.5, 1.4), (1.0, 0.7)),
        legs=((0.75, -0.85), (0.6, -0.2)),
    ),
    Mannequin(
        neck=(420, 126),
        torso=70,
        lean=-0.04,
        tilt=0.1,
        width=1.05,
        arms=((1.6, 0.0), (1.6, 0.0)),
        legs=((0.25, -0.2), (0.25, -0.2)),
    ),
    Mannequin(
        neck=(572, 146),
        torso=60,
        lean=-0.12,
        tilt=-0.1,
        width=0.95,
        arms=((0.6, -0.4), (2.2, 0.7)),
        legs=((0.15, -0.2), (0.8, -0.6)),
    ),
]
"""Four poses that are not among the random ones: waving, striding, arms out, dancing."""


def make_picture(zoom: int = 2) -> Image.Image:
    """The picture that the README's commands are tried on: `DEMO_FIGURES`, enlarged."""
    size = (zoom * DEMO_SIZE[0], zoom * DEMO_SIZE[1])
    canvas = background(np.random.default_rng(3), (2 * size[0], 2 * size[1]))
    paint(DEMO_FIGURES, canvas, PALETTE, 2 * zoom)
    return canvas.resize(size, Image.Resampling.BOX)


def main() -> None:
    """Write the network and the picture into a folder."""
    parser = argparse.ArgumentParser(description="Make demo.onnx and demo.png.")
    here = Path(__file__).resolve().parent
    parser.add_argument("folder", type=Path, nargs="?", default=here, help="default: %(default)s")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    make_picture().save(folder / "demo.png", optimize=True)
    onnx.save(make_network(), folder / "demo.onnx")
    print(f"{folder / 'demo.onnx'} and {folder / 'demo.png'}")


if __name__ == "__main__":
    main()
