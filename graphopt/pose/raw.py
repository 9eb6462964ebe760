"""A network's outputs for photos, whatever they mean: `graphopt run --raw`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError, InputError
from graphopt.ir.arrays import Array
from graphopt.ir.files import replacing
from graphopt.pose.head_choice import detect_head
from graphopt.pose.images import expand, read_photo
from graphopt.pose.normalisation import find_normalisation
from graphopt.pose.open import any_bundled_spec
from graphopt.pose.preprocess import arranged, extents, prepare
from graphopt.pose.probe import as_proto, probe_network
from graphopt.pose.spec import CHOICES, Preprocess
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.open import open_bundle


def write_outputs(
    model: Path,
    photos: Sequence[Path],
    file: Path,
    *,
    engine: str | None = None,
    threads: int = 0,
    height: int | None = None,
    choices: Mapping[str, Any],
) -> list[str]:
    """Write a network's outputs for photos, and its input, to an .npz file.

    Args:
        model: an ONNX file or a bundle.
        photos: photos and folders.
        file: what is written: arrays by the names of the outputs and of the input; of several
            photos, each after its photo's name and a slash.
        engine, threads: see `open_engine`.
        height: rows of an input that takes any.
        choices: what the user says about the network.

    Returns:
        The names of the arrays.

    Raises:
        InputError: something cannot be read.
    """
    if not model.exists():
        raise InputError(f"{model} does not exist")
    opened: Any
    if model.is_dir() and engine != "onnxruntime":
        opened = open_bundle(model, threads=threads)
    else:
        source = read_bundle(model).source() if model.is_dir() else model
        opened = OnnxRuntimeEngine(source, threads=threads)
    preprocess = _preprocess(model, choices)
    ((name, shape),) = opened.inputs.items()
    paths = [path for path, _ in expand(photos)]
    found: dict[str, Array] = {}
    for path in paths:
        tensor, _ = prepare(read_photo(path), preprocess, extents(shape), height=height)
        feeds = {name: arranged(tensor, shape)}
        before = f"{path.name}/" if len(paths) > 1 else ""
        found |= {f"{before}{key}": value for key, value in {**opened.run(feeds), **feeds}.items()}
    with replacing(file) as fresh, fresh.open("wb") as stream:
        np.savez(stream, **found)  # type: ignore[arg-type]
    return [*found]


def _preprocess(model: Path, choices: Mapping[str, Any]) -> Preprocess:
    """How a network wants its photos, as far as can be told."""
    said = {name: choices.get(name) for name in CHOICES}
    if model.is_dir():
        return any_bundled_spec(read_bundle(model)).with_choices(**said).preprocess
    try:
        return detect_head(model, **choices).preprocess
    except GraphoptError:
        proto = as_proto(model)
        probe = probe_network(proto, any_layout=True)
        found, _ = find_normalisation(proto, probe, "single")
        given = {name: value for name, value in said.items() if value is not None}
        whole = {"multiple": probe.downsampling, "height": probe.default}
        return Preprocess(**{**found, **given, **whole})
