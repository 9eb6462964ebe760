"""ONNX files in and out: load, check, fix shapes; save whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs

from graphopt.errors import InputError
from graphopt.ir.checks import (
    check_model,
    check_operators,
    check_opset,
    check_types,
    node_name,
    nodes_of,
)
from graphopt.ir.conversion import export_message, import_message
from graphopt.ir.edit import sort_nodes
from graphopt.ir.external_data import INLINE_LIMIT, read_external_data
from graphopt.ir.files import replacing
from graphopt.ir.graph import STANDARD_DOMAINS
from graphopt.ir.header import Header
from graphopt.ir.input_shapes import fix_sizes
from graphopt.ir.network import Network
from graphopt.ir.packing import DOMAIN as PACKED_DOMAIN
from graphopt.ir.packing import expand_all

_SMALL = 1024
"""Bytes of a constant that stays in the model file even when weights go beside it."""
_ALIGNMENT = 4096
"""Weights in a file of their own start at multiples of a page, so that they can be mapped."""


# --- loading ------------------------------------------------------------------------------------


def load_model(path: Path, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Network:
    """Read an ONNX file, check it, and infer every tensor's shape.

    External data is read, model-local functions are inlined, nodes are put in order, an initializer
    that is also listed as an input (as old exporters do) becomes a plain constant, and compact
    weights (`pack-weights`) become dense ones.

    Args:
        path: the file.
        input_shapes: sizes to fix inputs at, by name; the name "" means the only input.

    Raises:
        InputError: no such file, no ONNX model, damaged, external data missing or short, the
            checker's objection, or shapes that do not fit the model.
        Unsupported: an opset or operator that the installed onnxruntime does not run.
    """
    model = _read(path)
    _spell_domains(model, path)
    check_opset(model, path)
    check_operators(model, path)
    check_types(model.graph, path)
    data_files = read_external_data(model, path)
    for holder in (model.graph, *model.functions):
        _sort(holder, path)
    check_model(model, path)
    model = _without_functions(model, path)
    graph = Network.of(import_message(model))
    # From IR 4 on initializers need not be inputs; graphs are written without such inputs.
    graph.ir_version = max(model.ir_version, 4)
    graph.header = Header(
        producer=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        metadata={entry.key: entry.value for entry in model.metadata_props},
        data_files=data_files,
        sequences={
            value.name: value.type
            for value in (*model.graph.input, *model.graph.output)
            if value.type.HasField("sequence_type")
        },
    )
    for tensor in graph.inputs:
        if tensor.shape is not None:  # old exporters write unknown extents as 0 or -1
            tensor.shape = [None if isinstance(d, int) and d < 1 else d for d in tensor.shape]
    expand_all(graph)
    sort_nodes(graph)
    fix_sizes(graph, input_shapes or {})
    return graph


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise InputError(
            f"{path} is not an ONNX model, or is damaged",
            hint="export it again, and compare the file's size with the original's",
        ) from error
    if not model.ir_version or not model.graph.node:
        raise InputError(
            f"{path} is not a whole ONNX model: it holds no graph",
            hint="a download or copy may have been cut short",
        )
    return model


def _spell_domains(model: onnx.ModelProto, path: Path) -> None:
    """Spell the standard's domain "" everywhere: "ai.onnx" means the same."""
    for imports in (model.opset_import, *(f.opset_import for f in model.functions)):
        versions = {o.version for o in imports if o.domain in STANDARD_DOMAINS}
        if len(versions) > 1:
            raise InputError(
                f"{path} names two ONNX opsets: {' and '.join(map(str, sorted(versions)))}",
                hint="export it again, with one",
            )
        others = [o for o in imports if o.domain not in STANDARD_DOMAINS]
        standard = [onnx.helper.make_opsetid("", version) for version in versions]
        del imports[:]
        imports.extend([*standard, *others])
    for holder in (model.graph, *model.functions):
        for node in nodes_of(holder):
            if node.domain in STANDARD_DOMAINS:
                node.domain = ""


def _sort(graph: onnx.GraphProto | onnx.FunctionProto, path: Path) -> None:
    """Order nodes so that each follows what it reads; nodes already in order stay in place."""
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    waiting = [
        sorted({maker[name] for name in _reads(node) if name in maker}) for node in graph.node
    ]
    order: list[int] = []
    state: dict[int, bool] = {}  # False while a node waits for its makers, True once placed
    for root in range(len(waiting)):
        stack = [root]
        while stack:
            node = stack[-1]
            missing = [i for i in waiting[node] if not state.get(i)]
            if state.get(node):
                stack.pop()
            elif not missing:
                state[node] = True
                order.append(stack.pop())
            elif node in state:
                cycle = graph.node[node]
                raise InputError(f"{path}: the graph has a cycle", node=node_name(cycle))
            else:
                state[node] = False
                stack += missing
    if order != sorted(order):
        nodes = [graph.node[i] for i in order]
        sorted_nodes = onnx.GraphProto(node=nodes)
        del graph.node[:]
        graph.node.extend(sorted_nodes.node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _sort(attribute.g, path)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, and what its subgraphs may read from outside."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from (output.name for output in attribute.g.output)
            for inner in attribute.g.node:
                yield from _reads(inner)


def _without_functions(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The same with model-local functions inlined; our own, which expands weights, is not."""
    own = [(f.domain, f.name) for f in model.functions if f.domain == PACKED_DOMAIN]
    if len(model.functions) == len(own):
        return model
    try:
        return onnx.inliner.inline_selected_functions(model, own, exclude=True)
    except Exception as error:  # onnx raises RuntimeError and classes of its own
        raise InputError(f"the functions of {path} cannot be inlined: {error}") from error


# --- saving -------------------------------------------------------------------------------------


def to_proto(graph: gs.Graph) -> onnx.ModelProto:
    """The graph with its header as an ONNX message."""
    header = Network.of(graph).header
    model = export_message(graph)
    model.producer_name = header.producer
    model.producer_version = header.producer_version
    model.domain = header.domain
    model.model_version = header.model_version
    model.doc_string = header.doc_string
    onnx.helper.set_model_props(model, dict(header.metadata))
    for value in (*model.graph.input, *model.graph.output):
        if value.name in header.sequences:
            value.type.CopyFrom(header.sequences[value.name])
    return model


def weight_bytes(graph: gs.Graph) -> int:
    """Bytes of all constants of the graph."""
    return sum(
        tensor._values.nbytes
        for tensor in graph.tensors().values()
        if isinstance(tensor, gs.Constant)
    )


@contextmanager
def serialised(graph: gs.Graph) -> Iterator[bytes | Path]:
    """The model as bytes, or past protobuf's 2 GB as a file that lives as long as the context."""
    if weight_bytes(graph) <= INLINE_LIMIT:
        yield to_proto(graph).SerializeToString()
        return
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "model.onnx"
        _write_external(graph, path)
        yield path


def _write_external(graph: gs.Graph, path: Path) -> None:
    """Write a model with its weights in `NAME.data`; protobuf never sees them, nor their 2 GB."""
    light = graph.copy()
    name = f"{path.name}.data"
    with path.with_name(name).open("wb") as data:
        for tensor in light.tensors().values():
            if isinstance(tensor, gs.Constant) and tensor._values.nbytes > _SMALL:
                tensor._values = gs.ir.tensor.LazyValues(_moved(tensor, data, name))
    path.write_bytes(to_proto(light).SerializeToString())


def _moved(tensor: gs.Constant, data: BinaryIO, location: str) -> onnx.TensorProto:
    """Append a constant's bytes to an open file, and return the tensor that points there."""
    whole = gs.exporters.onnx_exporter.OnnxExporter.export_tensor_proto(tensor)
    raw = whole.raw_data or onnx.numpy_helper.to_array(whole).tobytes()
    data.seek(-data.tell() % _ALIGNMENT, os.SEEK_CUR)
    pointer = onnx.TensorProto(
        name=whole.name,
        data_type=whole.data_type,
        dims=whole.dims,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    place = {"location": location, "offset": data.tell(), "length": len(raw)}
    for key, value in place.items():
        pointer.external_data.add(key=key, value=str(value))
    data.write(raw)
    return pointer


def save_model(graph: gs.Graph, path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write an ONNX file, whole or not at all; weights over 2 GB go to `NAME.onnx.data` beside it.

    Args:
        graph: the graph, its nodes in order.
        path: the file; one that exists is replaced, missing folders are made.
        metadata: entries to add to the file's own.

    Raises:
        InputError: when the folder or disk does not take it; then nothing is left behind.
    """
    header = Network.of(graph).header
    stamped = Network.of(graph).copy()
    stamped.header = replace(header, metadata={**header.metadata, **(metadata or {})})
    with replacing(path) as fresh:
        if weight_bytes(graph) <= INLINE_LIMIT:
            fresh.write_bytes(to_proto(stamped).SerializeToString())
            return
        data = path.with_name(f"{path.name}.data")
        if any(data.resolve() == file.resolve() for file in header.data_files):
            raise InputError(
                f"the weights would go to {data}, which the input is read from",
                hint="choose another output name",
            )
        _write_external(stamped, fresh)
        fresh.with_name(data.name).replace(data)
