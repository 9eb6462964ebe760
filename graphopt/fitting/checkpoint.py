"""What a checkpoint belongs to: a fit goes on only with what it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import onnx_graphsurgeon as gs

from graphopt.errors import GraphoptError, InputError
from graphopt.fitting.calibration import Calibration
from graphopt.ir.files import sha256_of
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
    """The refusal of a file that is no checkpoint, or a damaged one."""
    return InputError(f"{path} cannot be read as a checkpoint", hint="remove it, or name another")


def foreign(path: Path) -> InputError:
    """The refusal of a checkpoint that another run left."""
    return InputError(
        f"{path} is the checkpoint of another network, other photos or other options",
        hint="remove it, or name another",
    )


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
