"""Photos and videos in, pictures and videos out."""

from __future__ import annotations

import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from graphopt.errors import InputError, Unsupported, UsageError
from graphopt.ir.files import replacing

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"})
CAMERAS = Path("/dev")
"""Where the system keeps cameras: video0, video1 …"""


DEEPEST = 65535
"""White of 16 bits."""


def as_rgb(photo: Image.Image) -> Image.Image:
    """A photo of any of Pillow's modes in RGB: what `convert("RGB")` gives, but for deep greys.

    Those of 16 bits are scaled to 8, where Pillow would cut off all but the darkest. Of integers of
    32 bits, values past 255 are taken for 16 bits. Transparency is dropped.

    Raises:
        InputError: it cannot be told which values are black and white.
    """
    if photo.mode == "RGB":
        return photo
    if photo.mode == "F" or photo.mode.startswith("I"):
        values = np.asarray(photo)
        low, high = values.min(initial=0), values.max(initial=0)
        floats = photo.mode == "F"
        deep = photo.mode.startswith("I;16") or (high > 255 and not floats)
        known = low >= 0 and high <= (DEEPEST if deep else 255)  # of NaN, nothing is
        if not known or (floats and 0 < high <= 1):
            raise InputError(
                f"its greys reach from {low:g} to {high:g}, and what is white cannot be told",
                hint="scale them to 0..255, or save the photo with 8 or 16 bits",
            )
        if deep:
            photo = Image.fromarray((values * (255 / DEEPEST)).round().astype(np.uint8))
    if photo.mode == "La":  # Pillow knows a way back from it, but none to others
        photo = photo.convert("LA")
    return photo.convert("RGB")


def read_photo(path: Path, *, small: bool = False) -> Image.Image:
    """An image file as 8-bit RGB (`as_rgb`), turned upright as its EXIF orientation says.

    An animation gives its first frame.

    Args:
        path: the file.
        small: give fewer pixels where that is quicker: enough to see whether the file is whole.

    Raises:
        InputError: the file is missing, no image, damaged or absurdly large.
    """
    try:
        with warnings.catch_warnings():
            # Cameras make photos of a hundred megapixels; past twice its limit, Pillow refuses.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened:
            if small:
                opened.draft("RGB", (1, 1))
            return as_rgb(ImageOps.exif_transpose(opened))
    except InputError as error:
        raise InputError(f"{path}: {error.message}", hint=error.hint) from error
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
    """Whether a file is named like a video, or is a camera."""
    return path.suffix.lower() in VIDEO_SUFFIXES or is_camera(path)


def is_camera(path: Path) -> bool:
    """Whether a path stands for a camera: camera:0, camera:1 …"""
    return re.fullmatch(r"camera:\d+", str(path)) is not None


def is_picture(path: Path) -> bool:
    """Whether a file is named like a picture that Pillow can write."""
    return Image.registered_extensions().get(path.suffix.lower()) in Image.SAVE


def usual_picture(photos: Sequence[Path]) -> Path | None:
    """Where the poses of one photo are drawn if nobody says: `NAME.poses.png`, in this folder.

    None for several photos, for folders and for videos.
    """
    alone = len(photos) == 1 and not photos[0].is_dir() and not is_video(photos[0])
    return Path(f"{photos[0].stem}.poses.png") if alone else None


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
    """About how many frames there are; 0 where there is no end."""
    fps: float


@contextmanager
def read_video(path: Path) -> Iterator[Video]:
    """Open a video, a frame at a time.

    Raises:
        InputError: it cannot be read.
        Unsupported: the extra for videos is not installed.
    """
    imageio = _imageio()
    if is_camera(path):
        with _camera(path, imageio) as video:
            yield video
        return
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
def _camera(path: Path, imageio: Any) -> Iterator[Video]:
    """A camera's frames, until the user interrupts: that is its end, and no error."""
    number = str(path).partition(":")[2]
    device = CAMERAS / f"video{number}"
    if not device.exists():
        others = sorted(other.name.removeprefix("video") for other in CAMERAS.glob("video*"))
        there = ", ".join(f"camera:{other}" for other in others) or "none"
        raise InputError(f"there is no {path} ({device})", hint=f"cameras here: {there}")
    try:
        reader = imageio.get_reader(f"<video{number}>", "ffmpeg")
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path} gives no pictures: {reason}") from error
    asked = threading.Event()
    ours = threading.current_thread() is threading.main_thread()  # others may set no handler
    before = signal.signal(signal.SIGINT, lambda *_: asked.set()) if ours else None

    def frames() -> Iterator[Image.Image]:
        pictures = iter(reader)
        while not asked.is_set():
            try:
                frame = next(pictures)
            except (StopIteration, OSError, RuntimeError, IndexError) as error:
                if asked.is_set() or isinstance(error, StopIteration):
                    return  # ffmpeg is interrupted too
                raise InputError(f"{path} gives no more pictures: {error}") from error
            yield Image.fromarray(frame)

    try:
        yield Video(frames=frames(), count=0, fps=reader.get_meta_data()["fps"])
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)
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
        if not path.exists() and not is_camera(path):
            raise InputError(f"{path} does not exist")
        if path.is_dir():
            inside = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
            files += [(file, False) for file in inside]
        else:
            files.append((path, True))
    return files
