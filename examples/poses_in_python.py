"""Who is in a photo, and in each frame of a stream, from Python.

python examples/poses_in_python.py [BUNDLE|NETWORK.onnx] [PHOTO] [DRAWN.png]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import graphopt

HERE = Path(__file__).parent


def frames(photo: Path) -> Iterator[NDArray[np.uint8]]:
    """As a camera would give them: blue, green, red. Here a photo, moved to the right."""
    pixels = np.asarray(Image.open(photo).convert("RGB"))[:, :, ::-1]
    for step in range(3):
        yield np.roll(pixels, 8 * step, axis=1)


def main(
    network: Path = HERE / "demo.onnx",
    photo: Path = HERE / "demo.png",
    drawn: Path = Path("poses.png"),
) -> None:
    """Print the people, and draw them."""
    with graphopt.load(network) as model:
        poses = model(photo)
        nose = [part.name for part in model.skeleton.parts].index("nose")
        places = [person.keypoints[nose, :2].round().tolist() for person in poses.people]
        print(f"{len(poses.people)} people: noses at {places}")
        poses.draw(photo).save(drawn)
        for number, found in enumerate(model(frames(photo), bgr=True)):
            print(f"frame {number}: {len(found.people)} people")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
