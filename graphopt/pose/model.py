"""A pose network as Python code uses it: `load` it, and call it with photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graphopt.errors import InputError, UsageError
from graphopt.pose.coco import coco_result
from graphopt.pose.decode import Poses
from graphopt.pose.draw import draw
from graphopt.pose.estimate import Estimator
from graphopt.pose.images import as_rgb, read_photo
from graphopt.pose.open import open_any
from graphopt.pose.skeleton import Skeleton
from graphopt.pose.spec import AnySpec

Photo: TypeAlias = NDArray[np.uint8] | Image.Image | str | PathLike[str]
"""Pixels [height, width, 3] (RGB), [height, width] (grey) or [height, width, 4] (RGBA, whose
transparency is dropped) of 0..255; a picture of Pillow's; or a file."""

CHANNELS = (1, 3, 4)
"""Of pixels in an array: grey, RGB, RGBA."""


@dataclass(frozen=True)
class FoundPoses(Poses):
    """The people in a photo, best first, with what their key points are.

    `people[i].keypoints` is [parts, 3]: x and y in pixels of the photo, the centre of its first
    pixel at (0, 0), and a score; all zero for a part that was not found. `skeleton.parts` names
    them.
    """

    skeleton: Skeleton = field(kw_only=True)

    def draw(self, photo: Photo, *, bgr: bool = False) -> Image.Image:
        """A copy of the photo in RGB, with the people drawn on it.

        Args:
            photo: the one that they were found in.
            bgr: an array's colours are blue, green, red, as OpenCV reads them.

        Raises:
            InputError: see `Model`.
        """
        return draw(read(photo, bgr=bgr), self.people, self.skeleton)

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """The people as COCO's key-point results, which `pycocotools` reads.

        Raises:
            InputError: the skeleton shares no part with COCO's.
        """
        return [coco_result(person, self.skeleton, image_id) for person in self.people]


class Model:
    """A pose network, ready for photos: a compiled bundle or an ONNX file.

    Threads may share one: a bundle serves one after the other. A copy in another process (pickled,
    as by `multiprocessing`) opens the file again there.

    Args:
        path: the bundle's folder, or the ONNX file.
        engine: `graphopt` or `onnxruntime`; by default graphopt for a bundle, onnxruntime for an
            ONNX file.
        threads: CPU threads; 0: every core for a bundle, onnxruntime's own choice for a file.
        choices: what cannot be told from the network, as the options of `graphopt run` of the same
            names (`skeleton`, `color`, `mean`, `maps` …).

    Raises:
        InputError: no such file, or none of a pose network.
        Unsupported: this machine cannot run it.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        engine: str | None = None,
        threads: int = 0,
        **choices: Any,
    ) -> None:
        self.path = Path(fspath(path)).absolute()
        self._arguments = {"engine": engine, "threads": threads, **choices}
        opened, spec = open_any(self.path, engine=engine, threads=threads, **choices)
        self._spec = spec
        self._find: Callable[[Image.Image], Poses] | None = Estimator(opened, spec)

    @property
    def spec(self) -> AnySpec:
        """How photos and people fit the network."""
        return self._spec

    @property
    def skeleton(self) -> Skeleton:
        """The names of the parts, and the limbs between them."""
        return self._spec.skeleton

    @overload
    def __call__(self, photo: Photo, *, bgr: bool = False) -> FoundPoses: ...

    @overload
    def __call__(
        self, photo: list[Photo] | tuple[Photo, ...], *, bgr: bool = False
    ) -> list[FoundPoses]: ...

    @overload
    def __call__(self, photo: Iterator[Photo], *, bgr: bool = False) -> Iterator[FoundPoses]: ...

    def __call__(
        self, photo: Photo | list[Photo] | tuple[Photo, ...] | Iterator[Photo], *, bgr: bool = False
    ) -> FoundPoses | list[FoundPoses] | Iterator[FoundPoses]:
        """The people in a photo, in each of a list, or in each of a stream of frames.

        Args:
            photo: one, a list of them, or an iterator of frames, which is read one by one as the
                answers are asked for.
            bgr: an array's colours are blue, green, red, as OpenCV reads them.

        Raises:
            InputError: it is no photo; says what it is.
            UsageError: the model was closed.
        """
        if isinstance(photo, (np.ndarray, Image.Image, str, PathLike)):
            return self._one(photo, bgr)
        if isinstance(photo, (list, tuple)):
            return [self._one(one, bgr) for one in photo]
        if isinstance(photo, Iterator):
            return (self._one(one, bgr) for one in photo)
        raise not_a_photo(photo)

    def _one(self, photo: Photo, bgr: bool) -> FoundPoses:
        find = self._find
        if find is None:
            raise UsageError(f"{self.path}: the model was closed")
        found = find(read(photo, bgr=bgr))
        return FoundPoses(found.people, found.warnings, skeleton=self.skeleton)

    def close(self) -> None:
        """Give its memory and threads back; twice does no harm."""
        self._find = None

    def __enter__(self) -> Model:
        """Itself; it is closed at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """How to open it again in another process."""
        return _reopen, (self.path, self._arguments)

    def __repr__(self) -> str:
        """The call that opens it."""
        return f"graphopt.load({str(self.path)!r})"


load = Model
"""Open a pose network: `with graphopt.load("pose.graphopt") as model: poses = model(frame)`."""


def _reopen(path: Path, arguments: Mapping[str, Any]) -> Model:
    return Model(path, **arguments)


def read(photo: Photo, *, bgr: bool = False) -> Image.Image:
    """A photo in RGB.

    Args:
        photo: pixels, a picture, or a file.
        bgr: an array's colours are blue, green, red.

    Raises:
        InputError: it is none.
    """
    if isinstance(photo, (str, PathLike)):
        return read_photo(Path(fspath(photo)))
    if isinstance(photo, Image.Image):
        return as_rgb(photo)
    if not isinstance(photo, np.ndarray):
        raise not_a_photo(photo)
    shape = "x".join(map(str, photo.shape))
    if photo.dtype != np.uint8:
        raise InputError(
            f"a photo of {photo.dtype} cannot be told from other numbers",
            hint="give pixels of 0..255 as uint8",
        )
    pixels = photo[:, :, None] if photo.ndim == 2 else photo
    if pixels.ndim != 3 or pixels.shape[2] not in CHANNELS or not pixels.size:
        raise InputError(
            f"an array of {shape} is no photo",
            hint="height x width x 3, RGB; several photos as a list",
        )
    if pixels.shape[2] == 1:
        return Image.fromarray(pixels[:, :, 0]).convert("RGB")
    colours = pixels[:, :, 2::-1] if bgr else pixels[:, :, :3]
    return Image.fromarray(np.ascontiguousarray(colours))


def not_a_photo(given: object) -> InputError:
    """What to say of something else."""
    return InputError(
        f"{type(given).__name__} is no photo",
        hint="give an array, a picture of Pillow's, a path, a list of these or an iterator of them",
    )
