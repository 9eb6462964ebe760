"""Operators that work on channel-blocked tensors as they lie: the new expressions, without TVM's
layouts in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tvm
from tvm import relax

from graphopt.codegen.importing.relax_shapes import shape_of
from graphopt.codegen.kernels.conv.template import blocks, pack_channels
from graphopt.codegen.lowering.conv_calls import (
    Expr,
    Runs,
    blocks_of,
    empty_lanes,
    is_mean_of_pixels,
    mean_of,
)
from graphopt.codegen.lowering.fusion import ELEMENTWISE
from graphopt.codegen.lowering.tensor_forms import TensorForms


class BlockedOperators:
    """The rules, for one network.

    Args:
        builder: of the new function.
        forms: of every variable so far.
        lanes: channels of a block.
    """

    def __init__(self, builder: relax.BlockBuilder, forms: TensorForms, lanes: int) -> None:
        self._builder, self._forms, self._lanes = builder, forms, lanes

    def elementwise(self, call: Expr) -> tuple[Expr, Runs] | None:
        """Element-wise over blocked tensors; constants of one value a channel are blocked too."""
        lead = next(a for a in call.args if self._forms.is_blocked(a))
        runs = self._forms[lead].runs
        channels = sum(runs)
        arguments = []
        for argument in call.args:
            if isinstance(argument, tvm.ir.GenericConst):
                value = argument.value.numpy()
                if value.size == 1:
                    arguments.append(relax.const(value.reshape(())))
                    continue
                shape = (1,) * (4 - value.ndim) + value.shape
                if shape[:2] != (1, channels):
                    return None
                packed = pack_channels(value.reshape(shape)[0], self._lanes, runs)
                # Lanes past the last channel must stay finite, so nothing is divided by zero.
                if call.op.name == "relax.divide":
                    packed[empty_lanes(runs, self._lanes)] = 1.0
                arguments.append(relax.const(packed[None]))
            elif len(argument.ty.shape) == 4 and shape_of(argument)[:2] == (1, channels):
                arguments.append(self._forms.blocked(argument, runs))
            else:
                return None
        return relax.Call(call.op, arguments, call.attrs, call.ty_args), runs

    def concatenate(self, call: Expr) -> tuple[Expr, Runs] | None:
        """Concatenate along the channels: runs follow one another."""
        parts = list(call.args[0].fields)
        if int(call.attrs.axis) not in (1, -3) or any(len(p.ty.shape) != 4 for p in parts):
            return None
        tensors, runs = [], []
        for part in parts:
            if isinstance(part, tvm.ir.GenericConst):
                value = part.value.numpy()
                packed = pack_channels(value[0], self._lanes)
                tensors.append(relax.const(packed[None]))
                runs.append(value.shape[1])
            else:
                tensors.append(self._forms.blocked(part))
                runs += self._forms[part].runs
        return relax.op.concat(tensors, axis=1), tuple(runs)

    def slice(self, call: Expr) -> tuple[Expr, Runs] | None:
        """Slice rows and columns, and channels where the slice starts at the start of a block."""
        x, runs, lanes = call.args[0], self._forms[call.args[0]].runs, self._lanes
        axes, begin, end, *rest = ([int(v.value) for v in part.fields] for part in call.args[1:])
        steps = rest[0] if rest else [1] * len(axes)
        shape = shape_of(x)
        axes = [axis % 4 for axis in axes]
        if 0 in axes:
            return None
        for i, axis in enumerate(axes):
            if axis == 1:
                first, last, _ = slice(begin[i], end[i]).indices(shape[1])
                found = blocks_of(runs, first, last, lanes) if steps[i] == 1 else None
                if found is None:
                    return None
                begin[i], runs = found
                end[i] = begin[i] + blocks(runs, lanes)
        return relax.op.strided_slice(self._forms.blocked(x), axes, begin, end, steps), runs

    def pool(self, call: Expr) -> tuple[Expr, Runs] | None:
        """Pool blocked tensors."""
        source = call.args[0]
        return pooled(call, self._forms.blocked(source), self._lanes), self._forms[source].runs

    def mean(self, call: Expr) -> tuple[Expr, Runs] | None:
        """The mean over all pixels."""
        if not is_mean_of_pixels(call):
            return None
        mean = self._builder.call_te(mean_of, self._forms.stored(call.args[0]))
        return mean, self._forms[call.args[0]].runs


def pooled(call: Expr, source: Expr, lanes: int) -> Expr:
    """The same pooling of a blocked tensor.

    Args:
        call: the pooling of a planar one.
        source: (1, blocks, height, width, lanes).
        lanes: channels of a block.
    """
    operator = {
        "relax.nn.max_pool2d": relax.op.nn.max_pool2d,
        "relax.nn.avg_pool2d": relax.op.nn.avg_pool2d,
    }[call.op.name]
    layout, a = f"NCHW{lanes}c", call.attrs
    return operator(
        source,
        pool_size=list(a.pool_size),
        strides=list(a.strides),
        padding=list(a.padding),
        dilation=list(a.dilation),
        ceil_mode=bool(a.ceil_mode),
        count_include_pad=bool(a.count_include_pad),
        layout=layout,
        out_layout=layout,
    )


RULES: Mapping[str, Callable[[BlockedOperators, Expr], tuple[Expr, Runs] | None]] = {
    **dict.fromkeys(ELEMENTWISE, BlockedOperators.elementwise),
    "relax.concat": BlockedOperators.concatenate,
    "relax.nn.max_pool2d": BlockedOperators.pool,
    "relax.nn.avg_pool2d": BlockedOperators.pool,
    "relax.mean": BlockedOperators.mean,
    "relax.strided_slice": BlockedOperators.slice,
}
"""By the operator: its expression over blocked tensors and the runs of its channels, or None."""
