"""Sensitivities on disk: what pruning each layer and block costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from graphopt.errors import InputError
from graphopt.ir.block_structure import BlockName
from graphopt.ir.records import Record, complaint


@dataclass(frozen=True)
class Loss(Record):
    """What pruning a part of the blocks does, on photos that nothing was fitted on."""

    ratio: Annotated[float, Field(gt=0, lt=1)]
    error: float
    """The error of heat maps and PAFs, relative to the deviation of their channels: the mean of the
    two, weighed as `graphopt.pose.spec.HEAT_IMPORTANCE` says."""
    shift: float
    """Mean distance that key points move by, in pixels of the input."""
    oks: float
    """Mean object key-point similarity to the dense network's people."""


@dataclass(frozen=True, kw_only=True)
class LayerLosses(Record):
    """A layer or a function block, pruned by several ratios with all else dense."""

    name: str
    params: int
    macs: int
    """Multiply-adds at the network's own input size, or at 368x656 where it takes any."""
    losses: tuple[Loss, ...]


@dataclass(frozen=True, kw_only=True)
class LayerSensitivity(LayerLosses):
    """A convolution."""

    function_block: str


@dataclass(frozen=True)
class Sensitivity(Record):
    """A network's sensitivity to pruning; its JSON is what `graphopt sensitivity --json` writes."""

    block: BlockName
    """Filters x channels of a block."""
    images: int
    """How many photos it was judged on."""
    people: int
    """How many people the dense network found in them."""
    layers: tuple[LayerSensitivity, ...]
    """In the order of the graph."""
    function_blocks: tuple[LayerLosses, ...]
    remarks: tuple[str, ...] = ()
    """What a user should know of the photos, a sentence each."""


def read_sensitivity(path: Path) -> Sensitivity:
    """What `graphopt sensitivity --json` wrote.

    Raises:
        InputError: the file cannot be read, or does not hold sensitivities.
    """
    try:
        return Sensitivity.from_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        raise InputError(
            f"{path} holds no sensitivities: {complaint(error)}",
            hint=f"make it with: graphopt sensitivity MODEL.onnx --calib DIR --json {path}",
        ) from error
