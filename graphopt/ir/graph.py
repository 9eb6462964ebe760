"""The vocabulary that passes are written in: asking a graph questions, and changing it.

Graphs are `onnx_graphsurgeon` graphs. Two rules hold everywhere:

- A pass keeps the name of every tensor whose producer it replaces, so that `original[name]` and
  `optimised[name]` can always be compared; a tensor whose value changes meaning gets a new name.
- Constant arrays are shared between copies of a graph: they are replaced, never edited in place.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from graphopt.errors import InputError
from graphopt.ir.arrays import Array

Dim: TypeAlias = int | str | None
"""An extent: a number, the name of a dynamic dimension, or unknown."""

CONV_OPS = ("Conv", "ConvTranspose")
STANDARD_DOMAINS = (None, "", "ai.onnx")


# --- asking -------------------------------------------------------------------------------------


def is_standard(node: gs.Node, *ops: str) -> bool:
    """Whether `node` is an operator of the ONNX standard, and one of `ops` where any are given."""
    return node.domain in STANDARD_DOMAINS and (not ops or node.op in ops)


def label(node: gs.Node) -> str:
    """What reports call a node: its name, or where it has none its first output's name."""
    return str(node.name or next((t.name for t in node.outputs if t.name), node.op))


def constant_of(tensor: gs.Tensor) -> Array | None:
    """The value of a tensor that is known before the network runs; None for every other tensor.

    Sparse constants, strings, and element types that NumPy has no name for, count as not known.
    """
    if not isinstance(tensor, gs.Constant) or not isinstance(tensor.dtype, np.dtype):
        return None
    if tensor.dtype.hasobject:  # strings: onnx_graphsurgeon writes them only if nobody read them
        return None
    if isinstance(tensor._values, gs.ir.tensor.SparseValues):
        return None
    values: Array = tensor.values
    return values


def scalar_of(tensor: gs.Tensor) -> float | None:
    """The value of a constant with exactly one element."""
    values = constant_of(tensor)
    return float(values.reshape(())) if values is not None and values.size == 1 else None


def input_of(node: gs.Node, index: int) -> gs.Tensor | None:
    """An optional input: None where it is left out, by position or by an empty name."""
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    return node.inputs[index]


def producer_of(tensor: gs.Tensor) -> gs.Node | None:
    """The node that makes `tensor`; None for inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def is_graph_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether the network hands `tensor` to its caller."""
    return any(output is tensor for output in graph.outputs)


def is_graph_input(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether the network's caller provides `tensor`."""
    return any(given is tensor for given in graph.inputs)


def only_consumer(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """The one node that reads `tensor`, once, when nothing else can see it; else None."""
    if len(tensor.outputs) != 1 or is_graph_output(graph, tensor):
        return None
    return tensor.outputs[0]


def static_shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """The shape, when every extent is a known number."""
    shape = tensor.shape
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return None
    return tuple(shape)


def reads_of(node: gs.Node) -> Iterator[gs.Tensor]:
    """Every tensor that a node needs, including those that its subgraphs take from outside."""
    yield from (t for t in node.inputs if not t.is_empty())
    for subgraph in node.subgraphs():
        yield from subgraph._foreign_tensors().values()


@dataclass(frozen=True)
class Convolution:
    """A convolution (`Conv`, `ConvTranspose`) with constant weights, every default spelled out.

    Spatial tuples have one entry for each spatial dimension; `pads` has two, in ONNX's order:
    all the begins, then all the ends.
    """

    op: str
    weight: Array
    """Conv: (out, in / group, *kernel). ConvTranspose: (in, out / group, *kernel)."""
    bias: Array | None
    """(out,), or None where there is none."""
    strides: tuple[int, ...]
    pads: tuple[int, ...] | None
    """None where `auto_pad` makes them depend on an input size that is not known."""
    dilations: tuple[int, ...]
    group: int

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel's spatial extents."""
        return tuple(self.weight.shape[2:])

    @property
    def in_channels(self) -> int:
        """Channels read."""
        rows = self.weight.shape[0] if self.op == "ConvTranspose" else self.weight.shape[1]
        return int(rows if self.op == "ConvTranspose" else rows * self.group)

    @property
    def out_channels(self) -> int:
        """Channels written."""
        if self.op == "ConvTranspose":
            return int(self.weight.shape[1] * self.group)
        return int(self.weight.shape[0])

    @property
    def depthwise(self) -> bool:
        """Whether every channel is filtered alone."""
        return self.group > 1 and self.group == self.in_channels == self.out_channels

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """The spatial extents that a `Conv` with known pads makes of an input's."""
        assert self.pads is not None
        rank = len(self.kernel)
        ends = zip(self.pads[:rank], self.pads[rank:], strict=True)
        padded = [n + before + behind for n, (before, behind) in zip(size, ends, strict=True)]
        steps = zip(padded, self.kernel, self.dilations, self.strides, strict=True)
        return tuple((n - d * (k - 1) - 1) // s + 1 for n, k, d, s in steps)

    @classmethod
    def of(cls, node: gs.Node) -> Convolution | None:
        """Read a node; None when it is no convolution, or its weight or bias is not constant."""
        if not is_standard(node, *CONV_OPS):
            return None
        weight = constant_of(node.inputs[1])
        bias_tensor = input_of(node, 2)
        bias = None if bias_tensor is None else constant_of(bias_tensor)
        if weight is None or (bias_tensor is not None and bias is None):
            return None
        rank = weight.ndim - 2
        strides = tuple(node.attrs.get("strides") or [1] * rank)
        dilations = tuple(node.attrs.get("dilations") or [1] * rank)
        return cls(
            op=node.op,
            weight=weight,
            bias=bias,
            strides=strides,
            pads=_resolved_pads(node, weight.shape[2:], strides, dilations),
            dilations=dilations,
            group=int(node.attrs.get("group", 1)),
        )


def _resolved_pads(
    node: gs.Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...] | None:
    """Explicit pads of a convolution, as the ONNX specification defines `auto_pad`."""
    rank = len(kernel)
    auto_pad = node.attrs.get("auto_pad", "NOTSET")
    if auto_pad == "NOTSET" and "output_shape" not in node.attrs:
        return tuple(node.attrs.get("pads") or [0] * (2 * rank))
    if auto_pad == "VALID":
        return (0,) * (2 * rank)
    if node.op == "ConvTranspose":
        return None  # there `auto_pad` and `output_shape` define the pads through the output's size
    sizes = node.inputs[0].shape[2:] if node.inputs[0].shape else [None] * rank
    totals = []
    for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (extent - 1) * dilation + 1
        if stride == 1:
            totals.append(reach - 1)
        elif isinstance(size, int):
            totals.append(max((math.ceil(size / stride) - 1) * stride + reach - size, 0))
        else:
            return None
    small = [total // 2 for total in totals]
    large = [total - half for total, half in zip(totals, small, strict=True)]
    return tuple(small + large if auto_pad == "SAME_UPPER" else large + small)


# --- changing -----------------------------------------------------------------------------------


def _free(base: str, taken: set[str]) -> str:
    name, count = base, 0
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name


def _names(graph: gs.Graph) -> set[str]:
    return set(graph.tensors()) | {node.name for node in graph.nodes}


def constant(graph: gs.Graph, base: str, values: Array) -> gs.Constant:
    """A new constant named `base`, or `base_1`, `base_2` … where that name is taken."""
    return gs.Constant(_free(base, _names(graph)), np.asarray(values, order="C"))


def emit(
    graph: gs.Graph,
    op: str,
    *inputs: gs.Tensor | Array | float | None,
    out: gs.Tensor | str,
    domain: str | None = None,
    **attrs: Any,
) -> gs.Tensor:
    """Add a node, and return its output.

    Args:
        graph: the graph to add to; `sort_nodes` finds the node's place later.
        op: the operator.
        inputs: tensors; arrays and numbers, which become constants (numbers of the first tensor's
            element type); None for an optional input that is left out.
        out: the tensor that the node makes from now on, or the first choice of a new one's name.
        domain: the operator's domain, where it is not the ONNX standard's.
        attrs: the operator's attributes.
    """
    taken = _names(graph)
    like = next((t.dtype for t in inputs if isinstance(t, gs.Tensor)), None)
    dtype = np.dtype(np.float32) if like is None else like
    output = gs.Variable(_free(out, taken), dtype=dtype) if isinstance(out, str) else out
    tensors = []
    for given in inputs:
        if given is None:
            tensors.append(gs.Variable.empty())
        elif isinstance(given, gs.Tensor):
            tensors.append(given)
        else:
            values = given if isinstance(given, np.ndarray) else np.asarray(given, dtype=dtype)
            tensors.append(gs.Constant(_free(f"{output.name}.{op.lower()}", taken), values))
    name = _free(output.name, taken - {output.name})
    graph.nodes.append(gs.Node(op, name, attrs, tensors, [output], domain))
    return output


def remove_nodes(graph: gs.Graph, nodes: Iterable[gs.Node]) -> None:
    """Take nodes out; the tensors that they made wait for a new producer under the same names."""
    doomed = {id(node): node for node in nodes}
    for node in doomed.values():
        node.inputs.clear()
        node.outputs.clear()
    graph.nodes = [node for node in graph.nodes if id(node) not in doomed]


def remove_unread(graph: gs.Graph, nodes: Iterable[gs.Node]) -> None:
    """Take those of `nodes` out (readers first, please) whose outputs nobody needs any more."""
    for node in nodes:
        if not any(t.outputs or is_graph_output(graph, t) for t in node.outputs):
            remove_nodes(graph, [node])


def absorb(graph: gs.Graph, producer: gs.Node, consumer: gs.Node) -> None:
    """Let `producer` make what its only reader `consumer` made; the tensor between vanishes."""
    result = consumer.outputs[0]
    remove_nodes(graph, [consumer])
    producer.outputs[0] = result


def can_rewire(graph: gs.Graph, old: gs.Tensor, new: gs.Tensor) -> bool:
    """Whether `rewire` can do it: not when the names of both tensors belong to the caller."""
    inner = new.inputs and not is_graph_output(graph, new) and not is_graph_input(graph, new)
    return bool(inner) or not is_graph_output(graph, old)


def rewire(graph: gs.Graph, old: gs.Tensor, new: gs.Tensor) -> None:
    """Let everyone who reads `old` read `new`, which has the same value; `old` has no maker then.

    An output of the graph keeps its name: then `new`, an inner tensor, takes it over instead.
    """
    if is_graph_output(graph, old):
        maker = new.inputs[0]
        old.inputs.clear()
        _replace_reads(new, old)
        index = next(i for i, t in enumerate(maker.outputs) if t is new)
        maker.outputs[index] = old
    else:
        old.inputs.clear()
        _replace_reads(old, new)


def _replace_reads(old: gs.Tensor, new: gs.Tensor) -> None:
    for reader in list(old.outputs):
        for index, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[index] = new


def inline_branch(graph: gs.Graph, node: gs.Node, branch: gs.Graph) -> None:
    """Put the nodes of one of a node's subgraphs, which has no inputs, in the node's place.

    Its tensors keep their names where those are free; the node's outputs keep theirs in any case.
    """
    taken = _names(graph)
    outside = {id(t) for t in branch._foreign_tensors().values()}
    for tensor in branch.tensors().values():
        if id(tensor) not in outside:
            tensor.name = _free(tensor.name, taken)
    for inner in branch.nodes:
        inner.name = _free(inner.name, taken) if inner.name else ""
    own = {id(inner) for inner in branch.nodes}
    results = list(node.outputs)
    remove_nodes(graph, [node])
    graph.nodes.extend(branch.nodes)
    for result, made in zip(results, list(branch.outputs), strict=True):
        maker = producer_of(made)
        if maker is None or id(maker) not in own or not isinstance(made, gs.Variable):
            emit(graph, "Identity", made, out=result)
            continue
        for reader in list(made.outputs):
            for index, tensor in enumerate(reader.inputs):
                if tensor is made:
                    reader.inputs[index] = result
        index = next(i for i, t in enumerate(maker.outputs) if t is made)
        maker.outputs[index] = result


def live_nodes(graph: gs.Graph) -> set[int]:
    """The `id` of every node that an output of the graph depends on."""
    live: set[int] = set()
    pending = [node for tensor in graph.outputs for node in tensor.inputs]
    while pending:
        node = pending.pop()
        if id(node) not in live:
            live.add(id(node))
            pending += [maker for tensor in reads_of(node) for maker in tensor.inputs]
    return live


def flaw_of(graph: gs.Graph, outer: Collection[str] = ()) -> str | None:
    """Why a graph is none: a tensor that nothing makes, or that two nodes do; None where it is one.

    Args:
        outer: the tensors that a body (of an If, a Loop) sees of the graphs around it.
    """
    makers: dict[str, gs.Node] = {}
    given = {*outer, *(tensor.name for tensor in graph.inputs)}
    for node in graph.nodes:
        for tensor in node.outputs:
            if tensor.name and tensor.name in makers:
                return f"{label(makers[tensor.name])} and {label(node)} both make {tensor.name}"
            makers[tensor.name] = node
    known = {*given, *makers}
    for node in graph.nodes:
        for tensor in node.inputs:
            if not (tensor.name in known or isinstance(tensor, gs.Constant) or tensor.is_empty()):
                return f"{label(node)} reads {tensor.name}, which nothing makes"
        for body in node.attrs.values():
            if isinstance(body, gs.Graph) and (flaw := flaw_of(body, known)):
                return flaw
    for tensor in graph.outputs:
        if not (tensor.name in known or isinstance(tensor, gs.Constant)):
            return f"nothing makes the output {tensor.name}"
    return None


def sort_nodes(graph: gs.Graph) -> None:
    """Order the nodes so that each follows what it reads; nodes already in order stay in place.

    Raises:
        InputError: when the graph has a cycle.
    """
    own = {id(node) for node in graph.nodes}
    order: list[gs.Node] = []
    state: dict[int, bool] = {}  # False while a node waits for its producers, True once placed
    for root in graph.nodes:
        stack = [root]
        while stack:
            node = stack[-1]
            if state.get(id(node)):
                stack.pop()
                continue
            waiting = [
                maker
                for tensor in reads_of(node)
                for maker in tensor.inputs
                if id(maker) in own and not state.get(id(maker))
            ]
            if not waiting:
                state[id(node)] = True
                order.append(stack.pop())
            elif id(node) in state:
                raise InputError("the graph has a cycle", node=label(node))
            else:
                state[id(node)] = False
                stack += waiting
    graph.nodes = order


# --- shapes -------------------------------------------------------------------------------------

Facts: TypeAlias = tuple["np.dtype[Any] | int | None", "tuple[Dim, ...] | None"]
"""A tensor's element type and shape, where they are known."""

_SHAPE_CARRIER_ELEMENTS = 4096
"""Shape inference reads values only of constants that may describe shapes: all small."""


def infer_shapes(
    graph: gs.Graph,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    strict: bool = False,
) -> dict[str, Facts]:
    """Element type and shape of every tensor; the graph is not changed.

    ONNX's shape inference finds them; where it has no rule for an operator, what the file declares
    counts (at the graph's own sizes), then what onnxruntime infers. Weights are left out of what is
    inferred on, so that the cost does not grow with the model.

    Args:
        graph: the graph, its nodes in order.
        input_shapes: the sizes to infer at; without them the graph's own.
        strict: raise where an operator rejects its inputs' shapes.

    Raises:
        InputError: (strict) with the operator's reason.
    """
    skeleton = _without_weights(graph, input_shapes)
    proto = gs.export_onnx(skeleton, do_type_check=False)
    made = [t.name for node in graph.nodes for t in node.outputs if not t.is_empty()]
    try:
        known = _inferred(proto, strict=strict)
    except onnx.shape_inference.InferenceError as error:
        # Strictness objects to operators that ONNX has no rule for, too; onnxruntime decides.
        if not strict or _ask_runtime(proto, made)[1]:
            raise InputError(f"shapes do not fit: {reason_of(error)}") from error
        known = _inferred(proto)

    def learn(values: Sequence[onnx.ValueInfoProto]) -> dict[str, Facts]:
        proto.graph.value_info.extend(values)
        return _inferred(proto) if values else known

    given = {name: tuple(shape) for name, shape in (input_shapes or {}).items()}
    sizes = [(static_shape(t), given.get(t.name, static_shape(t))) for t in graph.inputs]
    if all(own is not None and own == size for own, size in sizes):
        vague = [name for name in made if not _is_whole(known.get(name))]
        known = learn(_declared(graph.tensors(), vague))
    gaps = [name for name in made if known.get(name, (None, None))[1] is None]
    if gaps:
        values, objection = _ask_runtime(proto, gaps)
        if strict and "ShapeInferenceError" in objection:
            raise InputError(f"shapes do not fit: {objection}")
        known = learn(values)
    return known


def _is_whole(facts: Facts | None) -> bool:
    return facts is not None and all(isinstance(dim, int) for dim in facts[1] or (None,))


def _without_weights(graph: gs.Graph, input_shapes: Mapping[str, Sequence[int]] | None) -> gs.Graph:
    """A copy in which large constants are inputs, and of inner tensors nothing is known."""
    skeleton = graph.copy()
    outputs = {id(t) for t in skeleton.outputs}
    inputs = {id(t) for t in skeleton.inputs}
    for tensor in skeleton.tensors().values():
        if isinstance(tensor, gs.Constant):
            if math.prod(tensor.shape) > _SHAPE_CARRIER_ELEMENTS:
                tensor.to_variable(shape=tensor.shape)
                tensor.type = "tensor_type"
                skeleton.inputs.append(tensor)
        elif id(tensor) in inputs:
            if input_shapes and tensor.name in input_shapes:
                tensor.shape = list(input_shapes[tensor.name])
        else:
            tensor.shape = None
            if id(tensor) not in outputs:
                tensor.dtype = None
    return skeleton


def _inferred(proto: onnx.ModelProto, *, strict: bool = False) -> dict[str, Facts]:
    """What ONNX's own shape inference finds."""
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=strict, data_prop=True)
    return {
        value.name: _type_and_shape(value)
        for values in (inferred.graph.input, inferred.graph.value_info, inferred.graph.output)
        for value in values
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type
    }


def _type_and_shape(value: onnx.ValueInfoProto) -> Facts:
    importer = gs.importers.onnx_importer
    dims = importer.get_onnx_tensor_shape(value)
    return importer.get_onnx_tensor_dtype(value), None if dims is None else tuple(dims)


def _declared(tensors: Mapping[str, gs.Tensor], names: Iterable[str]) -> list[onnx.ValueInfoProto]:
    """What the file says of tensors, or an earlier inference, where it is whole."""
    return [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype), shape
        )
        for name in names
        if (tensor := tensors.get(name)) is not None
        and isinstance(tensor, gs.Variable)
        and isinstance(tensor.dtype, np.dtype)
        and (shape := static_shape(tensor)) is not None
    ]


def _ask_runtime(
    proto: onnx.ModelProto, names: Sequence[str]
) -> tuple[list[onnx.ValueInfoProto], str]:
    """What onnxruntime infers of tensors, whose own operators it knows too; or why it refuses."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    outputs = {value.name for value in exposed.graph.output}
    exposed.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in outputs
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(
            exposed.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises a class of its own for each status code
        return [], str(error)
    wanted = set(names)
    # It says of a tensor whose rank it does not know what it says of a number: nothing is known.
    return [
        onnx.helper.make_tensor_value_info(value.name, element, value.shape)
        for value in session.get_outputs()
        if value.name in wanted and value.shape and (element := _ELEMENTS.get(value.type))
    ], ""


_ELEMENTS: Mapping[str, int] = {
    f"tensor({name.lower()})": number for name, number in onnx.TensorProto.DataType.items()
}
"""Element types as onnxruntime writes them."""


def reason_of(error: Exception) -> str:
    """What ONNX's checker or shape inference says, on one line, without the node's whole text."""
    return " ".join(str(error).partition("==> Context")[0].split())


def refresh_shapes(graph: gs.Graph, *, outputs: bool = False) -> None:
    """Bring every inner tensor's element type and shape up to date after a change.

    Args:
        graph: the graph, its nodes in order.
        outputs: the shapes of its outputs too.
    """
    known = infer_shapes(graph)
    edges = {id(t) for t in [*graph.inputs, *([] if outputs else graph.outputs)]}
    for name, tensor in graph.tensors().items():
        if isinstance(tensor, gs.Variable) and id(tensor) not in edges and name in known:
            tensor.dtype, shape = known[name]
            tensor.shape = None if shape is None else list(shape)
