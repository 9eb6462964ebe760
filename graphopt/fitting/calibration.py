"""What a network sees in use, to fit weights on and to judge them by, without any labels.

Photos go through the network's own pre-processing. Where there are none, images are made up with
the statistics of natural ones; they excite a network far less like photos do, and what is fitted
on them is accordingly worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
from PIL import Image

from graphopt.errors import InputError
from graphopt.ir.arrays import Array, Shape
from graphopt.pose.images import expand, is_picture, read_photo
from graphopt.pose.preprocess import arranged, extents, prepare
from graphopt.pose.spec import AnySpec, PoseSpec
from graphopt.runtime.engine import as_type
from graphopt.runtime.synthetic_images import natural_photo

SYNTHETIC_WARNING = (
    "no photos were given (--calib DIR): weights are fitted on made-up images, "
    "which recovers less accuracy than a hundred photos do"
)
HELD_OUT_SHARE = 0.2
"""The share of the images that nothing is fitted on."""
LEAST = 5
"""Images below which a fit and its judgement mean nothing."""


@dataclass(frozen=True)
class Calibration:
    """Images in a fixed order, some to fit on and others to judge the fit by.

    They are read when they are asked for, one at a time: memory does not grow with their number.
    """

    pose: AnySpec
    """How an image becomes an input, and outputs become people."""
    input: str
    """The network's input."""
    shape: Shape
    """The input's height and width, None where any will do."""
    fitting: Sequence[Path | int]
    """Photos, or the seeds of images that are made up."""
    held_out: Sequence[Path | int]
    """The same; nothing is fitted on them."""
    height: int | None = None
    """Rows of an input that takes any; None leaves it to the spec."""
    dtype: str = "float32"
    """The input's element type."""
    whole: Shape = (1, 3, None, None)
    """The input's shape: how many images it takes at once, and where it has channels."""
    damaged: Sequence[Path] = ()
    """Photos that were passed over because they cannot be read."""

    @classmethod
    def from_photos(
        cls,
        folder: Path,
        graph: gs.Graph,
        spec: AnySpec,
        *,
        count: int = 200,
        height: int | None = None,
        seed: int = 0,
    ) -> Calibration:
        """A choice of the photos in a folder: the same one for the same seed and files.

        Args:
            folder: where the photos are; files that are no photos, or damaged, are passed over.
            graph: the network, for its input.
            spec: the network's pre-processing, and how its outputs are read.
            count: how many to choose at most, held-out ones included.
            height: rows of an input that takes any.
            seed: of the choice.

        Raises:
            InputError: there is no such folder, or it holds fewer than five photos.
        """
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder of photos")
        files = [path for path, _ in expand([folder])]
        chosen: list[Path] = []
        damaged: list[Path] = []
        for index in np.random.default_rng(seed).permutation(len(files)):
            if len(chosen) == count:
                break
            file = files[index]
            try:
                read_photo(file, small=True)
            except InputError:
                if is_picture(file) or is_photo(file):
                    damaged.append(file)
            else:
                chosen.append(file)
        if len(chosen) < LEAST:
            raise InputError(
                f"{folder} holds {len(chosen)} photos{_besides(damaged)}; "
                f"fitting needs at least {LEAST}",
                hint="a hundred or more of what the network will see; labels are not needed",
            )
        return replace(cls._split(graph, spec, chosen, height), damaged=damaged)

    @classmethod
    def synthetic(
        cls, graph: gs.Graph, spec: AnySpec, *, count: int = 50, seed: int = 0
    ) -> Calibration:
        """Made-up images with the power spectrum of natural ones (see `SYNTHETIC_WARNING`)."""
        return cls._split(graph, spec, range(seed, seed + max(count, LEAST)), None)

    @classmethod
    def _split(
        cls, graph: gs.Graph, spec: AnySpec, images: Sequence[Path | int], height: int | None
    ) -> Calibration:
        aside = max(1, round(HELD_OUT_SHARE * len(images)))
        tensor = graph.inputs[0]
        whole = tuple(d if isinstance(d, int) else None for d in tensor.shape or (None,) * 4)
        return cls(
            pose=spec,
            input=tensor.name,
            shape=extents(whole),
            whole=whole,
            fitting=images[aside:],
            held_out=images[:aside],
            height=height,
            dtype=str(np.dtype(tensor.dtype)),
        )

    @property
    def spec(self) -> PoseSpec:
        """The same, for networks that answer with maps."""
        assert isinstance(self.pose, PoseSpec)
        return self.pose

    @property
    def made_up(self) -> bool:
        """Whether the images are synthetic."""
        return not isinstance(self.held_out[0], Path)

    @property
    def remarks(self) -> list[str]:
        """What a user should know of the choice, a sentence each."""
        if not self.damaged:
            return []
        return [f"passed over, because they cannot be read: {_listed(self.damaged)}"]

    def feeds(self, images: Sequence[Path | int]) -> Iterator[dict[str, Array]]:
        """The network's input for each of `fitting` or `held_out`, in its layout and type."""
        for image in images:
            values, _ = prepare(
                self.picture(image), self.pose.preprocess, self.shape, height=self.height
            )
            yield {self.input: as_type(arranged(values, self.whole), np.dtype(self.dtype))}

    def picture(self, image: Path | int) -> Image.Image:
        """One of `fitting` or `held_out` as an RGB image."""
        if isinstance(image, Path):
            return read_photo(image)
        pixels = natural_photo(384, 512, image).astype(np.uint8)
        return Image.fromarray(pixels.transpose(1, 2, 0), "RGB")


def _listed(files: Sequence[Path], most: int = 5) -> str:
    """The files' names, the first few of many."""
    more = f" and {len(files) - most} more" if len(files) > most else ""
    return ", ".join(file.name for file in files[:most]) + more


def _besides(damaged: Sequence[Path]) -> str:
    return f" that can be read (not {_listed(damaged)})" if damaged else ""


def is_photo(path: Path) -> bool:
    """Whether Pillow knows the file; its pixels are not decoded."""
    try:
        with Image.open(path):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
