"""The straight-line Relax program -> the static plan, the weights, the kernels that it calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from graphopt.codegen.importing.relax_shapes import shape_of
from graphopt.codegen.kernels import copy
from graphopt.codegen.lowering.lower_convolutions import LoweredLayer
from graphopt.codegen.targets import Target
from graphopt.errors import GraphoptError, Unsupported
from graphopt.runtime.bundle import sha256
from graphopt.runtime.plan import ALIGNMENT, Launch, Plan, Tensor

Expr = Any

LONGEST = 64
"""Characters of a kernel's name."""


def pack_weights(constants: Sequence[NDArray[np.generic]]) -> tuple[bytes, list[int]]:
    """The content of weights.bin, each array at an aligned offset, equal ones stored once.

    Returns:
        The bytes, and the offset of every array.
    """
    offset_of: dict[str, int] = {}
    parts: list[bytes] = []
    size = 0
    offsets = []
    for constant in constants:
        data = np.ascontiguousarray(constant).tobytes()
        key = sha256(data)
        if key not in offset_of:
            padding = -len(data) % ALIGNMENT
            offset_of[key] = size
            parts += [data, bytes(padding)]
            size += len(data) + padding
        offsets.append(offset_of[key])
    return b"".join(parts), offsets


def copy_inputs(module: tvm.IRModule, target: Target) -> tvm.IRModule:
    """Where an input of `main` is only reshaped, copy it.

    What TVM takes for a reshape shares the memory of what it reshapes; but an input's memory is the
    caller's, and no part of an arena.
    """
    main = module["main"]
    inputs = set(main.params)

    @relax.expr_functor.mutator
    class Copying(relax.PyExprMutator):
        def visit_call_(self, call: Expr) -> Expr:
            name = getattr(call.op, "name", "")
            if name != "relax.reshape" or call.args[0] not in inputs:
                return super().visit_call_(call)
            dtype = str(call.ty.dtype)
            function = copy.build(shape_of(call.args[0]), shape_of(call), dtype, target)
            kernel = self.builder_.add_func(function, "copy")
            return relax.call_tir(kernel, [call.args[0]], call.ty)

    copying = Copying(module)
    result = copying.visit_expr(main)
    copying.builder_.update_func(module.get_global_var("main"), result)
    return copying.builder_.get()


class _Planner:
    def __init__(self, module: tvm.IRModule, layers: Sequence[LoweredLayer]) -> None:
        self._module = module
        self._layers = list(layers)
        self._constants: dict[int, NDArray[np.generic]] = {}
        self._arenas: list[int] = []
        self._arena_of: dict[Expr, int] = {}
        self._tensors: list[Tensor] = []
        self._index_of: dict[Expr, int] = {}
        self._launches: list[Launch] = []

    def run(
        self, inputs: Sequence[str], outputs: Sequence[str]
    ) -> tuple[Plan, bytes, dict[str, Any]]:
        main = self._module["main"]
        for parameter in main.params:
            self._index_of[parameter] = self._tensor(parameter, arena=None, offset=0)
        bindings = [binding for block in main.body.blocks for binding in block.bindings]
        for binding in bindings:
            self._visit(binding.var, binding.value)
        results = next(b.value for b in bindings if b.var.same_as(main.body.body))
        found = {
            name: self._argument(result)
            for name, result in zip(outputs, results.fields, strict=True)
        }
        weights, offsets = pack_weights(list(self._constants.values()))
        for index, offset in zip(self._constants, offsets, strict=True):
            placed = replace(self._tensors[index], offset=offset)
            self._tensors[index] = placed
        plan = Plan(
            arenas=tuple(self._arenas),
            tensors=tuple(self._tensors),
            launches=tuple(self._launches),
            inputs={n: self._index_of[p] for n, p in zip(inputs, main.params, strict=True)},
            outputs=found,
        )
        called = {launch.kernel for launch in self._launches}
        functions = {
            short(g.name_hint): f
            for g, f in self._module.functions.items()
            if short(g.name_hint) in called
        }
        if not called:
            raise Unsupported("the network computes nothing: its outputs are inputs or constants")
        check_memory(plan)
        return plan, weights, functions

    def _tensor(self, expr: Expr, arena: int | None, offset: int) -> int:
        tensor = Tensor(shape=shape_of(expr), dtype=str(expr.ty.dtype), arena=arena, offset=offset)
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _argument(self, expr: Expr) -> int:
        """The tensor that an expression stands for; a constant becomes one in weights.bin."""
        if isinstance(expr, tvm.ir.GenericConst):
            index = self._tensor(expr, arena=-1, offset=0)
            self._constants[index] = expr.value.numpy()
            return index
        return self._index_of[expr]

    def _visit(self, variable: Expr, value: Expr) -> None:
        if isinstance(value, (relax.Var, tvm.ir.GenericConst)):
            self._index_of[variable] = self._argument(value)
        elif isinstance(value, relax.Tuple):
            return
        elif isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar):
            self._launch(value)
        else:
            self._memory(variable, value)

    def _memory(self, variable: Expr, value: Expr) -> None:
        name = getattr(getattr(value, "op", None), "name", type(value).__name__)
        if name == "relax.memory.alloc_storage":
            (size,) = value.args[0].values
            self._arena_of[variable] = len(self._arenas)
            self._arenas.append(int(size))
        elif name == "relax.memory.alloc_tensor":
            arena = self._arena_of[value.args[0]]
            offset = int(value.args[1])
            self._index_of[variable] = self._tensor(variable, arena, offset)
        elif name == "relax.reshape":
            # The same memory under another shape.
            index = self._argument(value.args[0])
            source = self._tensors[index]
            self._index_of[variable] = self._tensor(variable, source.arena, source.offset)
            if index in self._constants:
                self._constants[self._index_of[variable]] = self._constants[index]
        else:
            raise Unsupported(f"the network needs {name}, which a static plan cannot hold")

    def _launch(self, call: Expr) -> None:
        kernel = short(call.op.name_hint)
        layer, macs = kernel, 0
        if self._layers and self._layers[0].kernel == call.op.name_hint:
            _, layer, macs, *_ = self._layers.pop(0)
        arguments = tuple(self._argument(argument) for argument in call.args)
        self._launches.append(Launch(kernel=kernel, arguments=arguments, layer=layer, macs=macs))


def short(name: str) -> str:
    """A kernel's name for files and drivers, which take none of more than 255 characters.

    TVM names a kernel after all that it fused.
    """
    if len(name) <= LONGEST:
        return name
    digest = sha256(name.encode())[:8]
    return f"{name[: LONGEST - 9]}_{digest}"


def check_memory(plan: Plan) -> None:
    """Refuse a plan that reads memory before it is written, or after something else wrote there.

    Nothing else would notice where the device is not here. A kernel writes its last argument, and
    reads the others.

    Args:
        plan: a network's, before anything is put before or behind it.

    Raises:
        GraphoptError: names the layer; a mistake of the compiler's.
    """
    given = set(plan.inputs.values())
    holds: dict[int, list[tuple[int, int]]] = {}
    """What was written to each arena and is still there: first byte, and the byte after it."""

    def place(index: int) -> tuple[int, int]:
        tensor = plan.tensors[index]
        size = math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
        return tensor.offset, tensor.offset + size

    def check(index: int, reader: str) -> None:
        arena, (first, last) = plan.tensors[index].arena, place(index)
        there = arena == -1 or index in given
        if arena is not None and arena >= 0:
            there = any(a <= first and last <= b for a, b in holds.get(arena, ()))
        if not there:
            raise GraphoptError(
                f"{reader} would read memory that was not written: an error in graphopt",
                hint="please report the network",
            )

    for launch in plan.launches:
        *read, result = launch.arguments
        for index in read:
            check(index, launch.layer)
        arena, (first, last) = plan.tensors[result].arena, place(result)
        if arena is None or arena < 0:
            raise GraphoptError(
                f"{launch.layer} would write to an input or a weight: an error in graphopt",
                hint="please report the network",
            )
        kept = [(a, b) for a, b in holds.get(arena, ()) if b <= first or last <= a]
        holds[arena] = [*kept, (first, last)]
    for name, index in plan.outputs.items():
        check(index, f"the output {name}")


def make_plan(
    module: tvm.IRModule,
    layers: Sequence[LoweredLayer],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> tuple[Plan, bytes, dict[str, Any]]:
    """Read the plan off a lowered module.

    Args:
        module: after `stages.MEMORY`; `main` is a list of allocations and calls.
        layers: the calls of our kernels, in order, from `layout.use_our_kernels`.
        inputs: the network's input names, in order.
        outputs: its output names, in order.

    Returns:
        The plan, the content of weights.bin, and the TIR of every kernel that the plan calls.

    Raises:
        Unsupported: something whose shape or place is not known before the run.
        GraphoptError: the plan would read memory that was not written.
    """
    return _Planner(module, layers).run(inputs, outputs)
