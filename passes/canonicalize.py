"""`canonicalize`: the same network with nothing superfluous in it."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from pydantic import Field

from graphopt.errors import InputError
from graphopt.ir.arrays import Array
from graphopt.ir.convolution import Convolution
from graphopt.ir.edit import can_rewire, inline_branch, live_nodes, remove_nodes, rewire
from graphopt.ir.graph import (
    constant_of,
    input_of,
    is_graph_output,
    is_standard,
    label,
    producer_of,
    scalar_of,
    static_shape,
)
from graphopt.optimizer.pass_contract import Change, Numerics, Pass, Skip, option
from graphopt.runtime.engine import OnnxRuntimeEngine

Edit: TypeAlias = Callable[[gs.Graph], None]
"""Makes a change that is known to be possible."""


@dataclass(frozen=True)
class Site:
    """A node, what is done about it, and how."""

    node: gs.Node
    summary: str
    edit: Edit


@dataclass(frozen=True)
class Canonicalize(Pass[Site]):
    """Remove what computes nothing, and compute now what never changes.

    Rewrite:
        Constant nodes become initializers, and nodes whose inputs are all constant become their
        values, computed by onnxruntime. Shapes that are known are such values, also single extents
        of partly dynamic shapes: Gather(Shape(x), 1) -> the number of channels.
        Nodes that hand their input on are taken out: Identity, Dropout, Cast to the same type, Pad
        by nothing, Slice of everything, Concat and Split of one, Reshape, Squeeze, Unsqueeze,
        Flatten and Expand to the same shape, Transpose by the identity, pooling over one element,
        Resize by one, + 0, - 0, * 1, / 1, and a Relu after something that is never negative.
        Transpose after Transpose becomes one or none; a Reshape reads from before the Reshape,
        Squeeze, Unsqueeze or Flatten that it undoes.
        A convolution's auto_pad becomes explicit pads where the input's size is known, and a Pad by
        zeros before a convolution becomes part of its pads.
        Of an If whose condition never changes, the branch that it takes remains.
        Of nodes that compute the same from the same, and of equal initializers, one remains.
        What no output depends on is removed.

    Numerics:
        Exact: every value is what it was.

    Why:
        Exporters leave such nodes behind; each is a kernel launch on a phone, and hides patterns
        from the passes that come after.

    When it skips:
        A folded value would be larger than `fold_limit` and than what it is computed from; an
        operator draws random numbers, or restores quantized weights (folding would undo the
        compression); both ends of a no-op are outputs of the network, or input and output; equal
        initializers are read by an operator that may write into them.
    """

    name: ClassVar[str] = "canonicalize"
    numerics: ClassVar[Numerics] = Numerics.EXACT
    repeat: ClassVar[bool] = True

    fold_limit: Annotated[int, Field(ge=0)] = option(
        1 << 20, "largest folded constant in bytes, unless it is no larger than its sources"
    )

    def match(self, graph: gs.Graph) -> Iterator[Site | Skip]:
        yield from _dead(graph)
        seen: dict[Hashable, gs.Node] = {}
        for node in list(graph.nodes):
            if not node.outputs or not is_standard(node):
                continue
            found = (
                _constant_node(node)
                or _decided_if(node)
                or self._foldable(graph, node)
                or _no_op(graph, node)
                or _duplicate(graph, node, seen)
            )
            if found is not None:
                yield found
        yield from _equal_initializers(graph)
        yield from _dead(graph)

    def rewrite(self, graph: gs.Graph, site: Site) -> Change | Skip:
        change = Change(label(site.node), site.summary)
        site.edit(graph)
        return change

    def _foldable(self, graph: gs.Graph, node: gs.Node) -> Site | Skip | None:
        shape = _known_shape_value(node)
        if shape is not None:
            return _becomes(node, [shape], "shape is known")
        if not node.inputs or not all(
            isinstance(t, gs.Constant) or t.is_empty() for t in node.inputs
        ):
            return None
        if node.op in _NEVER_FOLDED or any(node.subgraphs()):
            return None
        size = 0
        for tensor in _made_by(node):
            shape_out, dtype = static_shape(tensor), tensor.dtype
            if shape_out is None or not isinstance(dtype, np.dtype) or dtype.hasobject:
                return None  # strings are objects to NumPy: what they take is not known
            if is_graph_output(graph, tensor):
                return None
            size += math.prod(shape_out) * dtype.itemsize
        sources = sum(t._values.nbytes for t in node.inputs if not t.is_empty())
        if size > max(self.fold_limit, sources):
            return Skip(label(node), f"its value would take more than {self.fold_limit} bytes")
        try:
            values = _evaluate(graph, node)
        except InputError as error:
            return Skip(label(node), f"onnxruntime cannot compute it: {error.message}")
        return _becomes(node, values, "constant")


_NEVER_FOLDED = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
    "DequantizeLinear",
}


def _dead(graph: gs.Graph) -> Iterator[Site]:
    live = live_nodes(graph)
    for node in list(graph.nodes):
        if id(node) not in live:
            yield Site(node, "no output depends on it", _removing(node))


def _removing(node: gs.Node) -> Edit:
    return lambda graph: remove_nodes(graph, [node])


# --- constants ----------------------------------------------------------------------------------


def _made_by(node: gs.Node) -> list[gs.Tensor]:
    """A node's results: its outputs but those that it leaves out."""
    return [tensor for tensor in node.outputs if not tensor.is_empty()]


def _becomes(node: gs.Node, values: Sequence[Array], why: str) -> Site:
    def edit(graph: gs.Graph) -> None:
        results = _made_by(node)
        remove_nodes(graph, [node])
        for tensor, value in zip(results, values, strict=True):
            tensor.to_constant(np.asarray(value, order="C"))

    return Site(node, f"{node.op} becomes a constant ({why})", edit)


def _constant_node(node: gs.Node) -> Site | None:
    """The value of a Constant node; it stays where it is an output of the network."""
    if node.op != "Constant" or not node.outputs[0].outputs:
        return None
    forms: Mapping[str, Callable[[Any], Array | None]] = {
        "value": constant_of,
        "value_float": lambda number: np.asarray(number, np.float32),
        "value_floats": lambda numbers: np.asarray(numbers, np.float32),
        "value_int": lambda number: np.asarray(number, np.int64),
        "value_ints": lambda numbers: np.asarray(numbers, np.int64),
    }
    for name, read in forms.items():
        value = read(node.attrs[name]) if name in node.attrs else None
        if value is not None:
            return _becomes(node, [value], "Constant")
    return None


def _evaluate(graph: gs.Graph, node: gs.Node) -> list[Array]:
    lone = gs.Graph(opset=graph.opset, import_domains=graph.import_domains)
    lone.ir_version = graph.ir_version
    outputs = [
        gs.Variable.empty() if t.is_empty() else gs.Variable(t.name, dtype=t.dtype)
        for t in node.outputs
    ]
    inputs = [gs.Variable.empty() if t.is_empty() else t.copy() for t in node.inputs]
    lone.nodes = [gs.Node(node.op, node.name, node.attrs, inputs, outputs, node.domain)]
    lone.outputs = [tensor for tensor in outputs if not tensor.is_empty()]
    model = gs.export_onnx(lone).SerializeToString()
    values = OnnxRuntimeEngine(model, threads=1, optimize=False).run({})
    return [values[tensor.name] for tensor in lone.outputs]


def _decided_if(node: gs.Node) -> Site | None:
    """An If with a constant condition: the nodes of its branch, in its place."""
    condition = scalar_of(node.inputs[0]) if node.op == "If" else None
    if condition is None:
        return None
    taken = "then_branch" if condition else "else_branch"

    def edit(graph: gs.Graph) -> None:
        inline_branch(graph, node, node.attrs[taken])

    return Site(node, f"always takes its {taken}", edit)


_UNKNOWN = -1
"""Stands for an extent that is not known, in a shape."""


def _known_shape_value(node: gs.Node) -> Array | None:
    """What Shape and Size give where it is known, and the entries of a Shape that are."""
    if node.op in ("Shape", "Size"):
        dims = node.inputs[0].shape
        if dims is None:
            return None
        picked = dims[_slice_of_shape(node)] if node.op == "Shape" else dims
        if not all(isinstance(dim, int) for dim in picked):
            return None
        return np.asarray(math.prod(picked) if node.op == "Size" else picked, np.int64)
    maker = producer_of(node.inputs[0]) if node.inputs else None
    if maker is None or not is_standard(maker, "Shape") or maker.inputs[0].shape is None:
        return None
    # Entries that are not known are marked, carried through, and looked for in the result.
    dims = maker.inputs[0].shape[_slice_of_shape(maker)]
    entries = np.asarray([d if isinstance(d, int) else _UNKNOWN for d in dims], np.int64)
    chosen = _picked(node, entries)
    return None if chosen is None or (chosen == _UNKNOWN).any() else chosen


def _slice_of_shape(node: gs.Node) -> slice:
    return slice(node.attrs.get("start", 0), node.attrs.get("end"))


def _picked(node: gs.Node, entries: Array) -> Array | None:
    """The result of a Gather or Slice with constant positions on a vector."""
    given = [input_of(node, index) for index in range(1, 5)]
    positions = [None if t is None else constant_of(t) for t in given]
    if any((t is None) != (p is None) for t, p in zip(given, positions, strict=True)):
        return None  # positions that are computed
    first, stop, _, step = (None if p is None else p.astype(np.int64) for p in positions)
    if first is None:
        return None
    if node.op == "Gather":
        return np.asarray(entries[first])
    if node.op == "Slice" and stop is not None:
        stride = 1 if step is None else int(step.reshape(-1)[0])
        picked = slice(int(first.reshape(-1)[0]), int(stop.reshape(-1)[0]), stride)
        return np.asarray(entries[picked]) if stride > 0 else None
    return None


# --- nodes that hand their input on -------------------------------------------------------------


BOTH_ENDS = "its input and its output both belong to the caller"


def _no_op(graph: gs.Graph, node: gs.Node) -> Site | Skip | None:
    rule = _NO_OPS.get(node.op)
    source = rule(node) if rule else None
    if source is None or isinstance(source, Site):
        return source
    result, *extras = node.outputs
    if any(extra.outputs or is_graph_output(graph, extra) for extra in extras):
        return Skip(label(node), "another of its outputs is in use")
    if not can_rewire(graph, result, source):
        return Skip(label(node), BOTH_ENDS)

    def edit(graph: gs.Graph) -> None:
        rewire(graph, result, source)
        remove_nodes(graph, [node])

    return Site(node, f"{node.op} changes nothing", edit)


Source: TypeAlias = "gs.Tensor | Site | None"
"""The tensor that equals a node's result; or another rewriting; or nothing."""


def _always(node: gs.Node) -> Source:
    return node.inputs[0]


def _dropout(node: gs.Node) -> Source:
    training = input_of(node, 2)
    return node.inputs[0] if training is None or scalar_of(training) == 0 else None


def _cast(node: gs.Node) -> Source:
    source = node.inputs[0].dtype
    same = isinstance(source, np.dtype) and (
        onnx.helper.np_dtype_to_tensor_dtype(source) == node.attrs["to"]
    )
    return node.inputs[0] if same else None


def _one_input(node: gs.Node) -> Source:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _split(node: gs.Node) -> Source:
    return node.inputs[0] if len(node.outputs) == 1 else None


def _pad(node: gs.Node) -> Source:
    pads = constant_of(node.inputs[1])
    return node.inputs[0] if pads is not None and not pads.any() else None


def _slice(node: gs.Node) -> Source:
    """Slices that take everything, in order."""
    shape = node.inputs[0].shape
    starts, ends = constant_of(node.inputs[1]), constant_of(node.inputs[2])
    if shape is None or starts is None or ends is None:
        return None
    given = input_of(node, 3), input_of(node, 4)
    axes = np.arange(starts.size) if given[0] is None else constant_of(given[0])
    steps = np.ones_like(starts) if given[1] is None else constant_of(given[1])
    if axes is None or steps is None:
        return None
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        dim = shape[int(axis)]
        reaches = end >= dim if isinstance(dim, int) else end >= np.iinfo(np.int32).max
        if start != 0 or step != 1 or not reaches:
            return None
    return node.inputs[0]


def _same_shape(node: gs.Node) -> Source:
    """Reshape and its kin, when the shape comes out as it was, here or some nodes earlier."""
    shape = static_shape(node.outputs[0])
    source = node.inputs[0]
    while True:
        if shape is not None and static_shape(source) == shape:
            return source
        maker = producer_of(source)
        if maker is None or not is_standard(maker, *_RESHAPES):
            break
        source = maker.inputs[0]
    if node.op != "Reshape":
        return None
    target = constant_of(node.inputs[1])
    if target is None:
        return None
    if source is not node.inputs[0] and (target != 0).all():
        return Site(node, "reads from before another Reshape", _reading(node, source))
    return node.inputs[0] if _copies_every_dim(node, target) else None


_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


def _copies_every_dim(node: gs.Node, target: Array) -> bool:
    """Reshape of a partly dynamic tensor to its own extents; one at most is left to be computed."""
    dims = node.inputs[0].shape
    if dims is None or len(dims) != target.size or node.attrs.get("allowzero", 0):
        return False
    kept = [t == 0 or (isinstance(d, int) and t == d) for t, d in zip(target, dims, strict=True)]
    return all(k or t == -1 for k, t in zip(kept, target, strict=True)) and kept.count(False) <= 1


def _reading(node: gs.Node, source: gs.Tensor) -> Edit:
    def edit(_: gs.Graph) -> None:
        node.inputs[0] = source

    return edit


def _expand(node: gs.Node) -> Source:
    shape = static_shape(node.inputs[0])
    return node.inputs[0] if shape is not None and shape == static_shape(node.outputs[0]) else None


def _transpose(node: gs.Node) -> Source:
    perm = _permutation(node)
    if perm is None:
        return None
    if perm == sorted(perm):
        return node.inputs[0]
    maker = producer_of(node.inputs[0])
    first = _permutation(maker) if maker is not None and is_standard(maker, "Transpose") else None
    if maker is None or first is None:
        return None
    both = [first[axis] for axis in perm]
    if both == sorted(both):
        return maker.inputs[0]

    def edit(_: gs.Graph) -> None:
        node.inputs[0] = maker.inputs[0]
        node.attrs["perm"] = both

    return Site(node, "Transpose takes in the one before it", edit)


def _permutation(node: gs.Node) -> list[int] | None:
    if "perm" in node.attrs:
        return list(node.attrs["perm"])
    shape = node.inputs[0].shape
    return None if shape is None else list(range(len(shape)))[::-1]


def _pool(node: gs.Node) -> Source:
    attrs = node.attrs
    ones = [*attrs["kernel_shape"], *(attrs.get("strides") or [1])]
    plain = all(n == 1 for n in ones) and not any(attrs.get("pads") or [0])
    return node.inputs[0] if plain else None


def _resize(node: gs.Node) -> Source:
    scales = input_of(node, 2)
    values = None if scales is None else constant_of(scales)
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    return node.inputs[0] if values is not None and values.size and (values == 1).all() else None


def _neutral(element: float, *, either_side: bool) -> Callable[[gs.Node], Source]:
    """Arithmetic with a constant that changes neither value nor shape."""

    def rule(node: gs.Node) -> Source:
        for x, other in ((0, 1), (1, 0))[: 2 if either_side else 1]:
            values, source = constant_of(node.inputs[other]), node.inputs[x]
            if values is None or not values.size or (values != element).any():
                continue
            if source.shape is not None and source.shape == node.outputs[0].shape:
                return source
        return None

    return rule


_NEVER_NEGATIVE = {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp"}


def _relu(node: gs.Node) -> Source:
    maker = producer_of(node.inputs[0])
    if maker is None or not is_standard(maker):
        return None
    if maker.op in _NEVER_NEGATIVE:
        return node.inputs[0]
    if maker.op == "Clip":
        low = input_of(maker, 1)
        bound = None if low is None else scalar_of(low)
        return node.inputs[0] if bound is not None and bound >= 0 else None
    return None


def _conv(node: gs.Node) -> Source:
    """Padding where every reader understands it: as explicit pads of the convolution itself."""
    spec = Convolution.of(node)
    if spec is None or spec.pads is None:
        return None
    if node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return Site(node, "auto_pad becomes explicit pads", _padding(node, spec.pads))
    maker = producer_of(node.inputs[0])
    before = _zero_padding(maker) if maker is not None and is_standard(maker, "Pad") else None
    if maker is None or before is None:
        return None
    pads = tuple(int(a + b) for a, b in zip(spec.pads, before, strict=True))
    return Site(node, f"takes in {label(maker)}", _padding(node, pads, maker.inputs[0]))


def _zero_padding(pad: gs.Node) -> list[int] | None:
    """Begins and ends of the spatial axes, where nothing else is padded and with zeros only."""
    amounts, value = constant_of(pad.inputs[1]), input_of(pad, 2)
    if amounts is None or pad.attrs.get("mode", "constant") != "constant" or input_of(pad, 3):
        return None
    begins, ends = np.split(amounts.astype(np.int64), 2)
    if (value is not None and scalar_of(value) != 0) or min(*begins, *ends) < 0:
        return None
    return None if begins[:2].any() or ends[:2].any() else [*begins[2:], *ends[2:]]


def _padding(node: gs.Node, pads: Sequence[int], source: gs.Tensor | None = None) -> Edit:
    def edit(_: gs.Graph) -> None:
        node.attrs.pop("auto_pad", None)
        node.attrs["pads"] = list(pads)
        if source is not None:
            node.inputs[0] = source

    return edit


_NO_OPS: Mapping[str, Callable[[gs.Node], Source]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _cast,
    "Conv": _conv,
    "Concat": _one_input,
    "Sum": _one_input,
    "Max": _one_input,
    "Min": _one_input,
    "Mean": _one_input,
    "Split": _split,
    "Pad": _pad,
    "Slice": _slice,
    "Reshape": _same_shape,
    "Squeeze": _same_shape,
    "Unsqueeze": _same_shape,
    "Flatten": _same_shape,
    "Expand": _expand,
    "Transpose": _transpose,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "Resize": _resize,
    "Add": _neutral(0, either_side=True),
    "Sub": _neutral(0, either_side=False),
    "Mul": _neutral(1, either_side=True),
    "Div": _neutral(1, either_side=False),
    "Relu": _relu,
}


# --- duplicates ---------------------------------------------------------------------------------


def _duplicate(graph: gs.Graph, node: gs.Node, seen: dict[Hashable, gs.Node]) -> Site | Skip | None:
    if node.op in _NEVER_FOLDED or node.op in ("Constant", "Dropout") or any(node.subgraphs()):
        return None
    key = (
        node.op,
        tuple(t.name for t in node.inputs),
        tuple(t.is_empty() for t in node.outputs),
        tuple(sorted((name, _frozen(value)) for name, value in node.attrs.items())),
    )
    first = seen.setdefault(key, node)
    if first is node:
        return None
    pairs = [(t, kept) for t, kept in zip(node.outputs, first.outputs, strict=True) if t.name]
    if not all(can_rewire(graph, old, new) for old, new in pairs):
        return Skip(label(node), f"computes what {label(first)} does, but both are outputs")

    def edit(graph: gs.Graph) -> None:
        for old, new in pairs:
            rewire(graph, old, new)
        remove_nodes(graph, [node])

    return Site(node, f"computes what {label(first)} does", edit)


def _frozen(value: Any) -> Hashable:
    if isinstance(value, gs.Constant):
        return (
            hashlib.sha256(value.values.tobytes()).hexdigest(),
            str(value.dtype),
            tuple(value.shape),
        )
    return repr(value)


def _only_reads(node: gs.Node) -> bool:
    """Whether an operator surely leaves its inputs as they are.

    Other domains' may keep state there (optimizers, caches), normalization in training mode its
    statistics, and loops their variables.
    """
    training = node.op == "BatchNormalization" and (
        node.attrs.get("training_mode", 0) or len(node.outputs) > 1
    )
    return is_standard(node) and not training and not any(node.subgraphs())


def _equal_initializers(graph: gs.Graph) -> Iterator[Site]:
    alike: dict[Hashable, list[gs.Constant]] = defaultdict(list)
    for tensor in graph.tensors().values():
        known = isinstance(tensor, gs.Constant) and isinstance(tensor.dtype, np.dtype)
        if known and all(_only_reads(node) for node in tensor.outputs):
            alike[str(tensor.dtype), tuple(tensor.shape)].append(tensor)
    for tensors in alike.values():
        if len(tensors) == 1:
            continue  # nothing to compare with: large weights are not even read
        kept: dict[bytes, gs.Constant] = {}
        for tensor in tensors:
            values = constant_of(tensor)
            if values is None or is_graph_output(graph, tensor):
                continue
            first = kept.setdefault(hashlib.sha256(values.tobytes()).digest(), tensor)
            if first is not tensor and tensor.outputs:
                reader = tensor.outputs[0]
                yield Site(
                    reader, f"shares {first.name} instead of {tensor.name}", _sharing(tensor, first)
                )


def _sharing(tensor: gs.Constant, first: gs.Constant) -> Edit:
    return lambda graph: rewire(graph, tensor, first)
