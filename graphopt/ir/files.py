"""Files and folders that appear whole or not at all; needs the standard library alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphopt.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, of the same name in a folder beside `path`; then it takes its place.

    A symbolic link stays, and the file that it leads to is replaced. What is there and is no
    ordinary file (`/dev/null`, `/dev/stdout`, a pipe) gets the content, whole, written into it.

    Raises:
        InputError: when the operating system refuses; then nothing is left behind.
    """
    folder: str | None = None
    try:
        special = path.exists() and not path.is_file() and not path.is_dir()
        target = path if special else path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = None if special else target.parent
        folder = tempfile.mkdtemp(prefix=f".{path.name}-", dir=beside)
        fresh = Path(folder) / path.name
        yield fresh
        if special:
            with fresh.open("rb") as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        else:
            _keep(fresh)
            fresh.replace(target)
            _keep(target.parent)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}",
            hint="choose another place, or make room on the disk",
        ) from error
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _keep(path: Path) -> None:
    """Have a file, or a folder's list of files, on the disk before anything else is done."""
    if os.name == "nt" and path.is_dir():
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sha256_of(path: Path) -> str:
    """The hex digest of a file (its external data, where it has some, is not covered)."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_unchanged(path: Path, sha256: str) -> bool:
    """Whether a file is still there, readable, and of that hash (see `sha256_of`)."""
    try:
        return sha256_of(path) == sha256
    except OSError:
        return False


def check_writable(path: Path) -> None:
    """Refuse a place for a folder that cannot be written.

    Raises:
        InputError: says why.
    """
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not os.access(parent, os.W_OK):
        raise InputError(f"cannot write {path}: {parent} is read-only")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that is at `path` afterwards, in place of what was there.

    Where `path` is a symbolic link, it stays, and the folder that it leads to is replaced.

    Yields:
        An empty folder beside it. Where filling or moving it fails, nothing has changed.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh, old = Path(folder) / "fresh", Path(folder) / "old"
        fresh.mkdir()
        yield fresh
        if path.exists():
            path.rename(old)
        try:
            fresh.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
