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

    Raises:
        InputError: when the operating system refuses; then nothing is left behind.
    """
    folder: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)
        fresh = Path(folder) / path.name
        yield fresh
        fresh.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}",
            hint="choose another place, or make room on the disk",
        ) from error
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


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

    Yields:
        An empty folder beside it. Where filling or moving it fails, nothing has changed.
    """
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
