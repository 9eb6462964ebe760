"""What a graph has besides nodes and tensors: versions, metadata, functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs


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
    """Types of inputs and outputs that are no tensors: their elements' shapes are only here."""
    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The channels that are left of tensors that lost some since the graph was read, by the
    tensor's name; not written."""
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The sizes that a network of dynamic inputs is counted, timed and checked at; not written."""


def header_of(graph: gs.Graph) -> Header:
    """The header that `load_model` found; an empty one for a graph made by hand."""
    header: Header = vars(graph).get("header", Header())
    return header


def put_header(graph: gs.Graph, header: Header) -> None:
    """Give a graph another header."""
    # onnx_graphsurgeon has no room for what is the file's, and a copy of a graph does not keep it.
    vars(graph)["header"] = header


def judged_at(graph: gs.Graph, sizes: Mapping[str, Sequence[int]]) -> None:
    """Have a network of dynamic inputs counted, timed and checked at these sizes."""
    fixed = {name: tuple(size) for name, size in sizes.items()}
    put_header(graph, replace(header_of(graph), sizes=fixed))


def copy_model(graph: gs.Graph) -> gs.Graph:
    """A copy with its header; constant arrays are shared (passes never edit them in place)."""
    copied = graph.copy()
    put_header(copied, header_of(graph))
    return copied
