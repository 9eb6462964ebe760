"""What a model file says besides nodes and tensors: versions, metadata, sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx


@dataclass(frozen=True)
class Header:
    """What an ONNX file says about itself beyond its graph; it survives a round trip.

    Doc strings of single nodes and tensors do not.
    """

    producer: str = ""
    producer_version: str = ""
    domain: str = ""
    model_version: int = 0
    doc_string: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    data_files: tuple[Path, ...] = ()
    """External data that the graph was read from."""
    sequences: Mapping[str, onnx.TypeProto] = field(default_factory=dict)
    """Types of inputs and outputs other than tensors: their elements' shapes are only here."""
    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The channels that are left of tensors that lost some since the graph was read, by the
    tensor's name; not written."""
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The sizes that a network of dynamic inputs is counted, timed and checked at; not written."""
