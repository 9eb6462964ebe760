"""Resize by tables: what each output pixel is made of, read off onnxruntime.

Along one axis a Resize is a matrix with a few weights in each row, whatever its mode, coordinates,
scales, antialiasing or rounding. onnxruntime resizing the unit matrix gives it, so our kernels mean
exactly the same. Axes are independent of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import tvm
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tvm import relax, te

from graphopt.codegen.importing.relax_shapes import shape_of
from graphopt.errors import Unsupported
from graphopt.runtime.engine import OnnxRuntimeEngine

Expr = Any
Table = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Input pixels, and their weights, of each output pixel along an axis: both (outputs, taps)."""

MARK = "graphopt.resample"
"""The call that stands for one, until layout.py knows how its input lies: `MARK.AXIS.AXIS`, of the
tensor and of each axis' table."""
UNROLLED = 4
"""Most taps along an axis that are written out rather than summed up by a loop."""

_KEPT = (
    "antialias",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "mode",
    "nearest_mode",
)


def resize(_: Any, inputs: Sequence[Expr], attributes: dict[str, Any]) -> Expr | None:
    """An ONNX Resize as a call of `MARK`; None leaves it to TVM.

    Raises:
        Unsupported: sizes that the network computes, or the aspect ratio kept.
    """
    x, node = inputs[0], str(attributes["tvm_custom"]["name"])
    shape, dtype = shape_of(x), str(x.ty.dtype)
    mode = attributes.get("mode", b"nearest").decode()
    crops = attributes.get("coordinate_transformation_mode") == b"tf_crop_and_resize"
    if crops or (mode != "nearest" and dtype != "float32"):
        for i, value in enumerate(inputs):
            # Exporters write a region or scales that are empty beside sizes.
            if isinstance(value, tvm.ir.GenericConst) and value.value.numpy().size == 0:
                inputs[i] = None  # type: ignore[index]  # TVM gives a list
        return None
    if attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise Unsupported(
            "it keeps the aspect ratio, which is not supported",
            node=node,
            hint="write the resulting sizes into the network",
        )
    scales, sizes = (_numbers(inputs[i]) if len(inputs) > i else None for i in (2, 3))
    given = scales if sizes is None else sizes
    if given is None:
        raise Unsupported("its scales or sizes are computed by the network", node=node)
    axes = [int(a) % len(shape) for a in attributes.get("axes", range(len(shape)))]
    kept = {k: v for k in _KEPT if (v := attributes.get(k)) is not None}
    tables: dict[int, Table] = {}
    extents = list(shape)
    for axis, value in zip(axes, given, strict=True):
        if value == (shape[axis] if sizes is not None else 1):
            continue
        key, kind = ("sizes", np.int64) if sizes is not None else ("scales", np.float32)
        matrix = _matrix(shape[axis], kept, key, kind(value))
        tables[axis], extents[axis] = _table(matrix), matrix.shape[0]
    if not tables:
        return x
    axes = sorted(tables)
    arrays = [array for axis in axes for array in tables[axis]]
    name = ".".join([MARK, *map(str, axes)])
    operands = relax.Tuple([x, *map(relax.const, arrays)])
    return relax.op.call_dps_packed(name, operands, relax.TensorType(extents, dtype))


def _numbers(expr: Expr) -> NDArray[Any] | None:
    if isinstance(expr, relax.ShapeExpr):
        return np.array([int(extent) for extent in expr.values])
    if not isinstance(expr, tvm.ir.GenericConst):
        return None
    value: NDArray[Any] = expr.value.numpy()
    return value if value.size else None


def _matrix(size: int, attributes: Mapping[str, Any], key: str, value: Any) -> NDArray[np.float32]:
    """The matrix, (outputs, inputs), of a Resize of one axis by `scales` or to `sizes`."""
    whole = {"scales": np.ones(4, np.float32), "sizes": np.array([1, 1, size, 0])}[key]
    whole[-1] = value
    # Two more axes, since onnxruntime resizes pictures only in some modes.
    inputs = {"scales": ["x", "", "n"], "sizes": ["x", "", "", "n"]}[key]
    node = helper.make_node("Resize", inputs, ["y"], **attributes)
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "axis",
        [helper.make_tensor_value_info("x", float32, (1, 1, size, size))],
        [helper.make_tensor_value_info("y", float32, (1, 1, size, None))],
        [numpy_helper.from_array(whole, "n")],
    )
    opset = 18 if "antialias" in attributes else 13
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    unit = np.eye(size, dtype=np.float32)[None, None]
    result = OnnxRuntimeEngine(model.SerializeToString()).run({"x": unit})["y"]
    return np.ascontiguousarray(result[0, 0].T, np.float32)


def _table(matrix: NDArray[np.float32]) -> Table:
    taps = max(1, int(np.count_nonzero(matrix, axis=1).max()))
    # The columns that are not zero, in order; then others, whose weight is zero.
    index = np.argsort(matrix == 0, axis=1, kind="stable")[:, :taps]
    weight = np.take_along_axis(matrix, index, axis=1)
    # Those stay close by: what lies elsewhere might be no number, of which zero makes none.
    index = np.where(weight == 0, index[:, :1], index)
    return index.astype(np.int32), weight


def resized_axes(call: Expr) -> list[int]:
    """The axes that what `resize` left resizes."""
    return [int(axis) for axis in call.args[0].global_symbol.split(".")[2:]]


def resample(x: Expr, axes: Sequence[int], *tables: Expr) -> Expr:
    """The computation in TE.

    Args:
        x: of any layout in which `axes` are whole.
        axes: those that are resized.
        tables: of each, the input pixels and their weights.
    """
    pairs = dict(zip(axes, zip(tables[::2], tables[1::2], strict=True), strict=True))
    if all(int(index.shape[1]) <= UNROLLED for index, _ in pairs.values()):
        return _written_out(x, pairs)
    for axis, (index, weight) in pairs.items():
        x = _summed_up(x, axis, index, weight)
    return x


def _written_out(x: Expr, tables: Mapping[int, tuple[Expr, Expr]]) -> Expr:
    shape = [tables[a][0].shape[0] if a in tables else n for a, n in enumerate(x.shape)]

    def value(*index: Expr) -> Expr:
        places = [(index, None)]
        for axis, (source, weight) in tables.items():
            row, taps = index[axis], int(source.shape[1])
            places = [
                (
                    (*place[:axis], source[row, tap], *place[axis + 1 :]),
                    # A single tap takes its pixel as it is, of whatever type.
                    factor if taps == 1 else _product(factor, weight[row, tap]),
                )
                for place, factor in places
                for tap in range(taps)
            ]
        terms = [x[place] if factor is None else x[place] * factor for place, factor in places]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    return te.compute(shape, value, name="resample")


def _product(a: Expr | None, b: Expr) -> Expr:
    return b if a is None else a * b


def _summed_up(x: Expr, axis: int, source: Expr, weight: Expr) -> Expr:
    shape = [source.shape[0] if a == axis else n for a, n in enumerate(x.shape)]
    tap = te.reduce_axis((0, source.shape[1]), "tap")

    def value(*index: Expr) -> Expr:
        row = index[axis]
        place = (*index[:axis], source[row, tap], *index[axis + 1 :])
        return te.sum(x[place] * weight[row, tap], axis=tap)

    return te.compute(shape, value, name="resample")
