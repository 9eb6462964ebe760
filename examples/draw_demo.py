"""Draw `demo.png`: painted mannequins, whose joints are known.

    python examples/draw_demo.py [FOLDER]

The picture that the README's commands are tried on belongs to nobody. `train_demo.py` shows the
network other mannequins, a tenth of what it learns from. A mannequin's joints are discs of 18
colours; a limb is a bar with a light half to its right and a dark half to its left.
"""

from __future__ import annotations

import argparse
import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from graphopt.pose.skeleton import load_skeleton

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

# Surfaces: joints come first, then limbs' light halves, then dark halves.
LIGHT, DARK = PARTS, PARTS + len(LIMBS)
HEAD, SHIRT = DARK + len(LIMBS), DARK + len(LIMBS) + 1


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


def paint(figures: Sequence[Mannequin], canvas: Image.Image, zoom: int) -> None:
    """Paint mannequins on a canvas that has `zoom` pixels for each pixel of their coordinates."""
    draw = ImageDraw.Draw(canvas)
    for figure in figures:
        for surface, kind, corners in _shapes(figure):
            # Pixel centres, not corners, are at whole numbers, at every zoom.
            at = [(c + 0.5) * zoom - 0.5 for c in corners]
            getattr(draw, kind)(at, fill=PALETTE[surface])


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
    paint(figures, canvas, 3)
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
    paint(DEMO_FIGURES, canvas, 2 * zoom)
    return canvas.resize(size, Image.Resampling.BOX)


def main() -> None:
    """Write the picture into a folder."""
    parser = argparse.ArgumentParser(description="Draw demo.png.")
    here = Path(__file__).resolve().parent
    parser.add_argument("folder", type=Path, nargs="?", default=here, help="default: %(default)s")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    make_picture().save(folder / "demo.png", optimize=True)
    print(folder / "demo.png")


if __name__ == "__main__":
    main()
