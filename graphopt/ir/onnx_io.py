"""ONNX files in and out: load, check, fix shapes; save whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
import onnxruntime as ort
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from graphopt.errors import InputError, Unsupported, UsageError
from graphopt.ir.files import replacing as replacing
from graphopt.ir.graph import STANDARD_DOMAINS, infer_shapes, reason_of, refresh_shapes, sort_nodes
from graphopt.ir.packing import DOMAIN as PACKED_DOMAIN
from graphopt.ir.packing import expand_all

# onnx_graphsurgeon logs to stdout, where results go; what matters in its warnings is checked here.
gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.ERROR

OLDEST_OPSET = 11
"""Before it, Clip, Pad, Dropout and BatchNormalization meant other things."""
INLINE_LIMIT = 2**31 - 2**24
"""Bytes of weights that still fit into one protobuf message (2 GB) with room for the graph."""
_SMALL = 1024
"""Bytes of a constant that stays in the model file even when weights go beside it."""
_ALIGNMENT = 4096
"""Weights in a file of their own start at multiples of a page, so that they can be mapped."""
RUNTIME_DOMAINS = ("ai.onnx.ml", "ai.onnx.preview", "com.microsoft", "com.microsoft.nchwc")
"""Domains beyond the standard one whose operators onnxruntime may know."""
_LOST_ATTRIBUTES = {
    onnx.AttributeProto.SPARSE_TENSOR,
    onnx.AttributeProto.TENSORS,
    onnx.AttributeProto.GRAPHS,
    onnx.AttributeProto.SPARSE_TENSORS,
    onnx.AttributeProto.TYPE_PROTO,
    onnx.AttributeProto.TYPE_PROTOS,
}
"""Attribute types that onnx_graphsurgeon would drop without a word."""
_LOST_TYPES = ("optional_type", "map_type", "opaque_type")
"""Kinds of values that it does not read."""


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
    """Of tensors that lost channels since the graph was read, those that are left, by the
    tensor's name; not written."""
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The sizes that a network of dynamic inputs is counted, timed and checked at; not written."""


def header_of(graph: gs.Graph) -> Header:
    """The header that `load_model` found; an empty one for a graph made by hand."""
    header: Header = vars(graph).get("header", Header())
    return header


def judged_at(graph: gs.Graph, sizes: Mapping[str, Sequence[int]]) -> None:
    """Have a network of dynamic inputs counted, timed and checked at these sizes."""
    graph.header = replace(header_of(graph), sizes={n: tuple(size) for n, size in sizes.items()})


def copy_model(graph: gs.Graph) -> gs.Graph:
    """A copy with its header; constant arrays are shared (passes never edit them in place)."""
    copied = graph.copy()
    copied.header = header_of(graph)
    return copied


def sha256_of(path: Path) -> str:
    """The hex digest of a file (its external data, where it has some, is not covered)."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# --- loading ------------------------------------------------------------------------------------


def load_model(path: Path, input_shapes: Mapping[str, Sequence[int]] | None = None) -> gs.Graph:
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
    _check_opset(model, path)
    _check_operators(model, path)
    _check_types(model.graph, path)
    data_files = _read_external_data(model, path)
    for holder in (model.graph, *model.functions):
        _sort(holder, path)
    _check(model, path)
    model = _without_functions(model, path)
    graph = gs.import_onnx(model)
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


def fix_sizes(graph: gs.Graph, input_shapes: Mapping[str, Sequence[int]]) -> None:
    """Fix inputs at sizes, and infer every tensor's shape anew.

    Args:
        graph: the graph, its nodes in order.
        input_shapes: the sizes, by name; the name "" means the only input.

    Raises:
        InputError: no such input, or shapes that do not fit the model.
    """
    if input_shapes:
        _fix_inputs(graph, input_shapes)
    refresh_shapes(graph)


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
        for node in _nodes_of(holder):
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
                raise InputError(f"{path}: the graph has a cycle", node=_name(cycle))
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


def _name(node: onnx.NodeProto) -> str:
    return str(node.name or next((name for name in node.output if name), node.op_type))


def _without_functions(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The same with model-local functions inlined; our own, which expands weights, is not."""
    own = [(f.domain, f.name) for f in model.functions if f.domain == PACKED_DOMAIN]
    if len(model.functions) == len(own):
        return model
    try:
        return onnx.inliner.inline_selected_functions(model, own, exclude=True)
    except Exception as error:  # onnx raises RuntimeError and classes of its own
        raise InputError(f"the functions of {path} cannot be inlined: {error}") from error


def _check_opset(model: onnx.ModelProto, path: Path) -> None:
    opset = next((o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS), None)
    if opset is None:
        raise InputError(f"{path} does not say which ONNX opset it uses")
    if opset < OLDEST_OPSET:
        raise Unsupported(
            f"{path} uses opset {opset}; the oldest supported is {OLDEST_OPSET}",
            hint=f"export it again with opset_version={OLDEST_OPSET} or newer, "
            "or use onnx.version_converter",
        )
    if not runtime_accepts(opset):
        newest = next(n for n in range(opset - 1, 0, -1) if runtime_accepts(n))
        raise Unsupported(
            f"{path} uses opset {opset}; "
            f"the newest that onnxruntime {ort.__version__} runs is {newest}",
            hint=f"export it with opset_version={newest}, or upgrade onnxruntime",
        )


@cache
def runtime_accepts(opset: int) -> bool:
    """Whether the installed onnxruntime runs models of this opset: it is asked, not looked up."""
    helper = onnx.helper
    value = [onnx.TensorProto.FLOAT, [1]]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", *value)],
        [helper.make_tensor_value_info("y", *value)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime raises a class of its own for each status code
        return False
    return True


def _nodes_of(
    graph: onnx.GraphProto | onnx.FunctionProto,
) -> Iterator[onnx.NodeProto]:
    """Every node, those of subgraphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes_of(attribute.g)


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    functions = {(f.domain, f.name) for f in model.functions}
    for holder in (model.graph, *model.functions):
        for node in _nodes_of(holder):
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            standard = node.domain in STANDARD_DOMAINS
            known = (
                (node.domain, node.op_type) in functions
                or (standard and onnx.defs.has(node.op_type, ""))
                or node.domain in RUNTIME_DOMAINS
            )
            if not known:
                raise Unsupported(
                    f"{path} uses the operator {name}, which neither ONNX nor the model defines",
                    node=_name(node),
                    hint="export with standard operators, or add it as a model-local function",
                )
            for attribute in node.attribute:
                if attribute.type in _LOST_ATTRIBUTES:
                    kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
                    raise Unsupported(
                        f"{path}: attribute {attribute.name} of {name} is a {kind}, "
                        "which cannot be carried through",
                        node=_name(node),
                    )


def _check_types(graph: onnx.GraphProto, path: Path, lost: Sequence[str] = _LOST_TYPES) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.WhichOneof("value")
        if kind in lost:
            raise Unsupported(
                f"{path}: {value.name} is not a tensor but of {kind.replace('_', ' ')}, "
                "which cannot be carried through"
            )
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _check_types(attribute.g, path, (*_LOST_TYPES, "sequence_type"))


def _read_external_data(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
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


def _check(model: onnx.ModelProto, path: Path) -> None:
    """The ONNX checker's opinion; weights past protobuf's limit are judged without it."""
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > INLINE_LIMIT:
        return
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(f"{path} is not a valid ONNX model: {reason_of(error)}") from error


def _fix_inputs(graph: gs.Graph, input_shapes: Mapping[str, Sequence[int]]) -> None:
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    known = ", ".join(f"{t.name} {_shape_text(t.shape)}" for t in graph.inputs)
    for given, shape in input_shapes.items():
        name = given
        if not given and len(inputs) == 1:
            (name,) = inputs
        if name not in inputs:
            raise UsageError(
                f"the model has no input {name!r}" if name else "the model has several inputs",
                hint=f"its inputs are: {known}; write NAME:1,3,368,656",
            )
        declared = inputs[name].shape
        text = _shape_text(shape)
        if declared is not None and len(declared) != len(shape):
            raise UsageError(
                f"input {name} has {len(declared)} dimensions, but {text} has {len(shape)}",
                hint=f"the model's inputs are: {known}",
            )
        for want, dim in zip(shape, declared or shape, strict=True):
            if isinstance(dim, int) and dim != want:
                raise UsageError(
                    f"input {name} is fixed at {_shape_text(declared)}; it cannot be {text}",
                    hint="export the model with dynamic axes, or keep the fixed size",
                )
        if declared is None or list(declared) != list(shape):
            _forget_shapes(graph)
        inputs[name].shape = list(shape)
    known_shapes = infer_shapes(graph, strict=True)
    for tensor in graph.outputs:
        _, inferred = known_shapes.get(tensor.name, (None, None))
        if inferred is not None and isinstance(tensor, gs.Variable):
            tensor.shape = list(inferred)


def _forget_shapes(graph: gs.Graph) -> None:
    """What the file says of inner tensors holds at the size that it was exported at."""
    edges = {id(t) for t in [*graph.inputs, *graph.outputs]}
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and id(tensor) not in edges:
            tensor.shape = None


def _shape_text(shape: Sequence[Any] | None) -> str:
    return "of any shape" if shape is None else "x".join(str(dim or "?") for dim in shape)


def parse_input_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`["data:1,3,368,656"]` to `{"data": (1, 3, 368, 656)}`; without a name the key is "".

    Raises:
        InputError: when a text is not of that form.
    """
    shapes = {}
    for text in texts:
        name, _, dims = text.rpartition(":")
        try:
            shape = tuple(int(dim) for dim in dims.replace("x", ",").split(","))
        except ValueError:
            shape = ()
        if not shape or min(shape) < 1:
            raise UsageError(f"{text!r} is not an input shape", hint="write NAME:1,3,368,656")
        shapes[name] = shape
    return shapes


def format_input_shapes(shapes: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The texts that `parse_input_shapes` reads as these shapes."""
    return tuple(f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items())


# --- saving -------------------------------------------------------------------------------------


def to_proto(graph: gs.Graph) -> onnx.ModelProto:
    """The graph with its header as an ONNX message."""
    header = header_of(graph)
    model = gs.export_onnx(graph)
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
    light = copy_model(graph)
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
    stamped = copy_model(graph)
    header = header_of(graph)
    stamped.header = Header(
        **{**vars(header), "metadata": {**header.metadata, **(metadata or {})}},
    )
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
