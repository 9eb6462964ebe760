"""Photos and videos in, pictures and videos out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from graphopt.errors import InputError, Unsupported, UsageError
from graphopt.model import replacing

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"})


def read_photo(path: Path) -> Image.Image:
    """An image file as 8-bit RGB, turned upright as its EXIF orientation says.

    Deeper greys are scaled to 8 bits, transparency is dropped, an animation gives its first frame.

    Raises:
        InputError: the file is missing, no image, damaged or absurdly large.
    """
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            if upright.mode.startswith("I"):
                deep = np.asarray(upright).astype(np.float32)
                upright = Image.fromarray((deep / 257).round().clip(0, 255).astype(np.uint8))
            return upright.convert("RGB")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    # Pillow's decoders raise these, depending on the format and on what is broken.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} is no photo that can be read: {error}",
            hint="JPEG, PNG, WebP and what else Pillow reads; videos: "
            + " ".join(sorted(VIDEO_SUFFIXES)),
        ) from error


def is_video(path: Path) -> bool:
    """Whether a file is named like a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_picture(path: Path) -> bool:
    """Whether a file is named like a picture that Pillow can write."""
    return Image.registered_extensions().get(path.suffix.lower()) in Image.SAVE


def check_picture_suffix(path: Path) -> None:
    """Raise InputError unless Pillow can write a picture of this name."""
    if not is_picture(path):
        raise UsageError(
            f"{path} is not named like a picture that can be written",
            hint="use .png, .jpg or .webp; several photos and folders go to a folder",
        )


def write_picture(image: Image.Image, path: Path) -> None:
    """Write a picture, whole or not at all, in the format of its suffix."""
    with replacing(path) as fresh:
        image.save(fresh, quality=92)


@dataclass(frozen=True)
class Video:
    """A video that is open for reading."""

    frames: Iterator[Image.Image]
    count: int
    """About how many frames there are."""
    fps: float


@contextmanager
def read_video(path: Path) -> Iterator[Video]:
    """Open a video, a frame at a time.

    Raises:
        InputError: it cannot be read.
        Unsupported: the extra for videos is not installed.
    """
    imageio = _imageio()
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        reader = imageio.get_reader(path, "ffmpeg")
    except (OSError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)  # ffmpeg's log follows
        raise InputError(f"{path} is no video that can be read: {reason}") from error
    try:
        facts = reader.get_meta_data()
        yield Video(
            frames=(Image.fromarray(frame) for frame in reader),
            count=round(facts["duration"] * facts["fps"]),
            fps=facts["fps"],
        )
    finally:
        reader.close()


@contextmanager
def write_video(path: Path, fps: float) -> Iterator[Callable[[Image.Image], None]]:
    """A function that appends frames to a video, which appears whole or not at all."""
    imageio = _imageio()
    with replacing(path) as fresh:
        writer = imageio.get_writer(fresh, "ffmpeg", fps=fps, macro_block_size=2, quality=8)
        try:
            yield lambda image: writer.append_data(np.asarray(image))
        finally:
            writer.close()


def _imageio() -> Any:
    if not (find_spec("imageio") and find_spec("imageio_ffmpeg")):
        raise Unsupported(
            "reading and writing videos needs imageio and ffmpeg, which are not installed",
            hint="pip install 'graphopt[video]'",
        )
    import imageio.v2

    return imageio.v2


def expand(paths: Sequence[Path]) -> list[tuple[Path, bool]]:
    """Each file, and whether it was named itself; a folder gives its files in order of name.

    Raises:
        InputError: a path is missing.
    """
    files = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist")
        if path.is_dir():
            inside = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
            files += [(file, False) for file in inside]
        else:
            files.append((path, True))
    return files
