"""The compact format: block-punched weights stored as the blocks that are kept, in ordinary ONNX.

A packed weight is two initializers and a node that expands them, `graphopt.ExpandBlocks`, a
model-local function of standard operators. onnxruntime inlines it and folds it when it loads the
file, so that a packed network runs as fast as it did before. `graphopt.ir.onnx_io.load_model`
expands it too: everything here sees ordinary convolutions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from graphopt.errors import Unsupported
from graphopt.ir.arrays import Array
from graphopt.ir.block_structure import Block, kept_mask
from graphopt.ir.edit import constant, emit, remove_nodes

DOMAIN, NAME = "graphopt", "ExpandBlocks"
VERSION = 1
"""The version of the format and of its domain; raised when a file means something else."""

OLDEST_OPSET = 13
"""Before it, onnxruntime does not compute all operators of the function."""

DOC = """graphopt's compact weights, version 1: expands a block-punched weight (O, I, kh, kw).

The weight is cut into blocks of F filters x C channels, at each of the kh * kw positions of the
kernel; the last ones are filled with zeros. Blocks are numbered in the order (filters, channels,
row, column). Those that hold anything but zeros are kept, in that order.

values: [kept, F, C], float16, float32 or int8. Little-endian, block after block; in a block filter
    after filter. Number (b, f, c) is at byte size * ((b * F + f) * C + c), size 2, 4 or 1.
gaps: [kept], uint8, uint16 or uint32, the smallest type that holds all. The first is the number of
    the first block that is kept, each other how much further the next one is. Number b is at byte
    size * b, size 1, 2 or 4.
grid: O', I', kh, kw, F, C; with O' = ceil(O / F) and I' = ceil(I / C).
table: O' * I' * kh * kw, F, C.
padded: O' * F, I' * C, kh, kw.
ends: O, I.
weight: [O, I, kh, kw], float32; where values are int8, a Cast behind it gives int8 again."""

BODY = """
    number = Cast<to=7>(gaps)
    axis = Constant<value_int=0>()
    at = CumSum(number, axis)
    column = Constant<value_ints=[-1, 1]>()
    where = Reshape(at, column)
    wide = Cast<to=1>(values)
    extent = Constant<value_ints: ints=@table>()
    zeros = ConstantOfShape(extent)
    blocks = ScatterND(zeros, where, wide)
    cut = Constant<value_ints: ints=@grid>()
    apart = Reshape(blocks, cut)
    beside = Transpose<perm=[0, 4, 1, 5, 2, 3]>(apart)
    whole = Constant<value_ints: ints=@padded>()
    joined = Reshape(beside, whole)
    start = Constant<value_ints=[0, 0]>()
    stop = Constant<value_ints: ints=@ends>()
    axes = Constant<value_ints=[0, 1]>()
    weight = Slice(joined, start, stop, axes)
"""


class Packed(NamedTuple):
    """A packed weight.

    Args:
        values: (kept, F, C), float16, float32 or int8.
        gaps: (kept,), how much further each kept block is than the one before.
        shape: of the weight, (O, I, kh, kw).
    """

    values: NDArray[np.floating | np.int8]
    gaps: NDArray[np.unsignedinteger]
    shape: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """Blocks of filters, of channels, the kernel's extents, and a block's."""
        block = Block(*self.values.shape[1:])
        return (*block.mask_shape(self.shape), *block)

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.values.nbytes + self.gaps.nbytes

    def attributes(self) -> dict[str, list[int]]:
        """The function's, see `DOC`."""
        o, i, kh, kw, f, c = self.grid
        return {
            "grid": [*self.grid],
            "table": [o * i * kh * kw, f, c],
            "padded": [o * f, i * c, kh, kw],
            "ends": [*self.shape[:2]],
        }


def pack(weight: Array, block: Block, dtype: type[np.floating | np.int8]) -> Packed:
    """Keep what is not zero of a weight (O, I, kh, kw)."""
    mask = kept_mask(weight, block)
    o, i, kh, kw = mask.shape
    padded = np.zeros((o * block.filters, i * block.channels, kh, kw), dtype)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    apart = padded.reshape(o, block.filters, i, block.channels, kh, kw)
    numbers = np.flatnonzero(mask)
    gaps = np.diff(numbers, prepend=0)
    return Packed(
        values=apart.transpose(0, 2, 4, 5, 1, 3)[mask],
        gaps=gaps.astype(np.min_scalar_type(gaps.max(initial=0))),
        shape=weight.shape,
    )


def unpack(packed: Packed) -> Array:
    """The weight (O, I, kh, kw), int8 if its values are, or else float32."""
    o, i, kh, kw, f, c = packed.grid
    whole = packed.values.dtype == np.int8
    blocks = np.zeros((o * i * kh * kw, f, c), np.int8 if whole else np.float32)
    blocks[np.cumsum(packed.gaps.astype(np.int64))] = packed.values
    joined = blocks.reshape(packed.grid).transpose(0, 4, 1, 5, 2, 3).reshape(o * f, i * c, kh, kw)
    return np.ascontiguousarray(joined[: packed.shape[0], : packed.shape[1]])


def insert(graph: gs.Graph, weight: gs.Constant, packed: Packed) -> None:
    """Let whoever reads a constant read it from a node that expands the packed one."""
    readers = [
        (node, index)
        for node in weight.outputs
        for index, tensor in enumerate(node.inputs)
        if tensor is weight
    ]
    arrays = [
        constant(graph, f"{weight.name}.{name}", values)
        for name, values in [("values", packed.values), ("gaps", packed.gaps)]
    ]
    expanded = gs.Variable(weight.name, weight.dtype, packed.shape)
    for node, index in readers:
        node.inputs[index] = expanded
    whole = packed.values.dtype == np.int8
    out = f"{weight.name}.expanded" if whole else expanded
    made = emit(graph, NAME, *arrays, out=out, domain=DOMAIN, **packed.attributes())
    if whole:
        made.dtype, made.shape = np.dtype(np.float32), packed.shape
        emit(graph, "Cast", made, out=expanded, to=onnx.TensorProto.INT8)
    if not any(made.domain == DOMAIN for made in graph.functions):
        importer = gs.importers.onnx_importer.OnnxImporter
        graph.functions.append(importer.import_function(_function(graph.opset)))
        opset = onnx.helper.make_opsetid(DOMAIN, VERSION)
        graph.import_domains = [*(graph.import_domains or []), opset]


def expand_all(graph: gs.Graph) -> None:
    """Put the weights back in the place of every node that expands one; others stay.

    Raises:
        Unsupported: the file's format is newer than this version's.
    """
    mine = [node for node in graph.nodes if (node.domain, node.op) == (DOMAIN, NAME)]
    if not mine:
        return
    domains = {opset.domain: opset.version for opset in graph.import_domains or []}
    if domains.get(DOMAIN, VERSION) > VERSION:
        raise Unsupported(
            f"compact weights of version {domains[DOMAIN]}; the newest known is {VERSION}",
            hint="upgrade graphopt",
        )
    for node in mine:
        values, gaps = (tensor.values for tensor in node.inputs if isinstance(tensor, gs.Constant))
        (weight,) = node.outputs
        shape = (*node.attrs["ends"], *node.attrs["grid"][2:4])
        done = [node]
        if values.dtype == np.int8:
            (cast,) = weight.outputs
            (weight,) = cast.outputs
            done.append(cast)
        remove_nodes(graph, done)
        weight.to_constant(unpack(Packed(values, gaps, shape)))
    graph.functions = [made for made in graph.functions if made.domain != DOMAIN]
    graph.import_domains = [o for o in graph.import_domains if o.domain != DOMAIN]


def _function(opset: int) -> onnx.FunctionProto:
    text = (
        f'<domain: "{DOMAIN}", opset_import: ["": {opset}]>\n'
        f"{NAME} <grid, table, padded, ends>(values, gaps) => (weight) {{{BODY}}}"
    )
    made = onnx.parser.parse_function(text)
    made.doc_string = DOC
    return made
