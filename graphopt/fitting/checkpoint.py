"""Checkpoints: what a fit has done so far, in files; it goes on only with what it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, TypeVar
from zipfile import BadZipFile, is_zipfile

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.errors import GraphoptError, InputError
from graphopt.fitting.calibration import Calibration
from graphopt.ir.files import replacing, sha256_of
from graphopt.ir.onnx_io import serialised


def fingerprint(
    graphs: Sequence[gs.Graph], calibration: Calibration, options: Sequence[object]
) -> str:
    """The hex digest of all that a fit depends on: networks, images and options.

    Photos count by content and order, not by where they are.
    """
    seen = hashlib.sha256()
    for graph in graphs:
        with serialised(graph) as model:
            if isinstance(model, bytes):
                seen.update(hashlib.sha256(model).digest())
            else:  # past protobuf's limit: the model and its weights, two files in one folder
                files = sorted(model.parent.iterdir())
                seen.update("".join(map(sha256_of, files)).encode())
    for image in [*calibration.fitting, *calibration.held_out]:
        seen.update((sha256_of(image) if isinstance(image, Path) else str(image)).encode())
    setting = (calibration.spec.preprocess, calibration.shape, calibration.height)
    seen.update(repr((setting, len(calibration.fitting), *options)).encode())
    return seen.hexdigest()


LAST_GOOD = "last-good.onnx"
"""The network after the last pass that passed its check."""
SENSITIVITY, LAYERS, FITS, TRAINING = STATES = (
    "sensitivity-*.json",
    "layers-*.npz",
    "fits-*.npz",
    "training-*.pt",
)
"""What passes that take long keep in a folder; the star stands for what it belongs to."""


def place(checkpoint: Path, owner: str, name: str) -> Path:
    """The file of a checkpoint: in a folder it is named after what it belongs to."""
    return checkpoint / name.replace("*", owner[:16]) if checkpoint.is_dir() else checkpoint


def unreadable(path: Path) -> InputError:
    """The error for a file that is not a checkpoint, or is damaged."""
    return InputError(f"{path} cannot be read as a checkpoint", hint="remove it, or name another")


def foreign(path: Path) -> InputError:
    """The refusal of a checkpoint that another run left."""
    return InputError(
        f"{path} is the checkpoint of another network, other photos or other options",
        hint="remove it, or name another",
    )


@dataclass(frozen=True)
class FileFormat:
    """How a state is written, and read again."""

    write: Callable[[dict[str, Any], BinaryIO], object]
    read: Callable[[Path], dict[str, Any]]
    errors: tuple[type[Exception], ...]
    """What `read` raises where a file is damaged, or another kind of file."""


def _write_arrays(state: dict[str, Any], file: BinaryIO) -> None:
    np.savez(file, **state)


def _read_arrays(path: Path) -> dict[str, Any]:
    if not is_zipfile(path):
        raise ValueError("not an archive of arrays")
    with np.load(path) as file:
        return dict(file)


def _write_tensors(state: dict[str, Any], file: BinaryIO) -> None:
    import torch

    torch.save(state, file)


def _read_tensors(path: Path) -> dict[str, Any]:
    import torch

    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


ARRAYS = FileFormat(_write_arrays, _read_arrays, (OSError, ValueError, BadZipFile))
"""NumPy's .npz: arrays by name."""
TENSORS = FileFormat(
    _write_tensors, _read_tensors, (OSError, RuntimeError, EOFError, UnpicklingError)
)
"""PyTorch's: tensors, numbers, and dictionaries of them."""

State = TypeVar("State")


class Checkpoint:
    """A state in a file that appears whole, of one run alone.

    Args:
        path: the file.
        owner: digest of the run that it must belong to, see `fingerprint`.
        form: the file's format.
    """

    def __init__(self, path: Path, owner: str, form: FileFormat) -> None:
        self._path, self._owner, self._form = path, owner, form

    def load(self, build: Callable[[dict[str, Any]], State]) -> State | None:
        """What `build` makes of the entries of the file; None if there is no file yet.

        Raises:
            InputError: the file cannot be read, lacks an entry, or is of another run.
        """
        if not self._path.exists():
            return None
        damaged: tuple[type[Exception], ...] = (*self._form.errors, KeyError, TypeError)
        try:
            entries = self._form.read(self._path)
            owner = str(entries.pop("owner"))
            if owner != self._owner:
                raise foreign(self._path)
            return build(entries)
        except damaged:
            raise unreadable(self._path) from None

    def save(self, entries: Mapping[str, Any]) -> None:
        """Write the file."""
        with replacing(self._path) as fresh, fresh.open("wb") as file:
            self._form.write({"owner": self._owner, **entries}, file)


@contextmanager
def resumable(work: Path | None) -> Iterator[None]:
    """A folder for what an interrupted run is to go on from; it goes when all is done."""
    if work is None:
        yield
        return
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{work} cannot be written: {error.strerror or error}") from error
    try:
        yield
    except BaseException as stopped:
        with suppress(OSError):  # not empty
            work.rmdir()
        if not work.exists():
            raise
        good = work / LAST_GOOD
        last = ", where the last good network is, too" if good.exists() else ""
        goes_on = f"the same command goes on from {work}{last}"
        if isinstance(stopped, KeyboardInterrupt):
            raise KeyboardInterrupt(goes_on) from None
        if isinstance(stopped, MemoryError):
            raise GraphoptError("memory ran out", hint=goes_on) from stopped
        if isinstance(stopped, GraphoptError):
            stopped.hint = f"{stopped.hint}; {goes_on}" if stopped.hint else goes_on
        raise
    for name in (LAST_GOOD, *STATES):
        for file in work.glob(name):
            file.unlink()
    with suppress(OSError):  # not empty: there is more than a run's own
        work.rmdir()
