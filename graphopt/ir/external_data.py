"""Weights that a model file keeps in others: found, held to its folder, read."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import onnx

from graphopt.errors import InputError


def read_external_data(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """Load the weights that are stored beside the model; say which file is missing or short."""
    helper = onnx.external_data_helper
    files: dict[str, Path] = {}
    for tensor in helper._get_all_tensors(model):
        if not helper.uses_external_data(tensor):
            continue
        try:
            info = helper.ExternalDataInfo(tensor)
        except ValueError as error:
            raise InputError(f"{path} is damaged: {error}") from error
        offset, length = info.offset or 0, info.length
        if info.location not in files:
            files[info.location] = _data_file(path, info.location)
        file = files[info.location]
        try:
            with file.open("rb") as data:
                end = data.seek(0, os.SEEK_END)
                length = end - offset if length is None else length
                if min(offset, length) < 0 or offset + length > end:
                    raise InputError(
                        f"{file} is too short: it ends before the weights of tensor {tensor.name}",
                        hint="a download or copy may have been cut short",
                    )
                data.seek(offset)
                tensor.raw_data = data.read(length)
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT
    return tuple(sorted(files.values()))


def _data_file(path: Path, location: str) -> Path:
    """The file of external data that a model names: beside it, and not led outside by a link.

    In the Hugging Face cache a model's folder holds links into the folder `blobs` of the same
    repository: those may be followed.
    """
    named = Path(location)
    if named.is_absolute() or ".." in named.parts or not named.parts:
        raise InputError(
            f"{path} keeps its weights in {location!r}, which is not a place beside it",
            hint="only files in the model's own folder are read",
        )
    folders = dict.fromkeys((path.parent.resolve(), path.resolve().parent))
    file = next((f / named for f in folders if (f / named).is_file()), None)
    if file is None:
        raise InputError(
            f"{path} keeps its weights in {location}, which is not beside it",
            hint=f"put {location} into {path.parent.resolve()}",
        )
    roots = [*folders, *(blobs for folder in folders if (blobs := _blobs_of(folder)))]
    if not any(file.resolve().is_relative_to(root) for root in roots):
        raise InputError(
            f"{path.parent / named} leads outside the model's folder, to {file.resolve()}",
            hint=f"put a copy of {location} in the link's place",
        )
    return file


def _blobs_of(folder: Path) -> Path | None:
    """Where the Hugging Face cache keeps the files that a snapshot's folder links to."""
    for snapshots, repository in pairwise(folder.parents):
        if snapshots.name == "snapshots" and (repository / "blobs").is_dir():
            return repository / "blobs"
    return None


INLINE_LIMIT = 2**31 - 2**24
"""Bytes of weights that still fit into one protobuf message (2 GB) with room for the graph."""
