"""OpenCL C for TIR kernels: what TVM has lowered, printed by graphopt.

TVM prints OpenCL C, too, but not for images of one dimension, nor for halves on devices that do not
compute in half precision; it has seven digits of a constant, and does not say that vectors are
aligned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import tvm
from tvm import tirx

from graphopt.codegen.linking.opencl_expressions import Body, Expressions
from graphopt.codegen.linking.opencl_memory import MACROS, Memory, NoImageError, Space, store
from graphopt.codegen.linking.opencl_words import Code, Level, data_type
from graphopt.errors import Unsupported

__all__ = ["MACROS", "kernel_source"]

THREADS = {"blockIdx": "get_group_id", "threadIdx": "get_local_id"}
"""OpenCL's functions for TVM's indices of work-groups and work-items."""

AXES = "xyz"


def kernel_source(name: str, function: Any, images: Collection[int] = ()) -> tuple[str, bool]:
    """A kernel in OpenCL C.

    Args:
        name: of the kernel.
        function: TIR, lowered for devices.
        images: parameters by position that may be images whose pixels are vectors of four. The
            image is one-dimensional, so its rows need no alignment, as a picture's would.

    Returns:
        The source, and whether they are images. They are not where single numbers are read of one
        (the planar first layer).

    Raises:
        Unsupported: something in it has no counterpart in OpenCL C.
    """
    try:
        try:
            return _Kernel(function, images).source(name), bool(images)
        except NoImageError:
            return _Kernel(function, ()).source(name), False
    except Unsupported as problem:
        raise Unsupported(f"kernel {name}: {problem.message}") from problem


class _Kernel:
    """A kernel while it is printed."""

    def __init__(self, function: Any, images: Collection[int]) -> None:
        self._function = function
        self._body = Body()
        self._text = Expressions(self._body)
        self._threads: list[str] = []
        self._parameters = [
            self._parameter(parameter, i in images) for i, parameter in enumerate(function.params)
        ]

    def source(self, name: str) -> str:
        """All of it."""
        self._statement(self._function.body)
        head = f"__kernel void {name}({', '.join(self._parameters)}) {{"
        return "\n".join([head, *self._threads, *self._body.lines, "}\n"])

    def _parameter(self, parameter: Any, image: bool) -> str:
        if not isinstance(parameter.ty, tvm.ir.PointerType):
            raise Unsupported(f"its parameter {parameter.name} is no memory")
        kind = data_type(parameter.ty.element_type)
        name = self._body.names.new(parameter.name.removesuffix("_ptr") or "buffer")
        self._text.memory[parameter] = Memory(name, kind, "image" if image else "global")
        if image:
            return f"__read_only image1d_buffer_t {name}"
        return f"__global {kind.name}* restrict {name}"

    def _statement(self, statement: Any) -> None:
        rule = STATEMENTS.get(type(statement))
        if rule is None:
            raise Unsupported(f"OpenCL C cannot say {type(statement).__name__}: {statement}")
        rule(self, statement)

    def _sequence(self, sequence: Any) -> None:
        for statement in sequence.seq:
            self._statement(statement)

    def _bind(self, binding: Any) -> None:
        self._text.bind(binding.var, binding.value)

    def _attribute(self, attribute: Any) -> None:
        if attribute.attr_key == "thread_extent":
            self._thread(attribute.node)
        elif attribute.attr_key == "volatile_scope":
            raise Unsupported("it shares volatile memory between work-items")
        self._statement(attribute.body)

    def _thread(self, index: Any) -> None:
        """Declare a work-item's index, before everything else."""
        if index.var in self._text.variables:
            return
        tag, _, axis = index.thread_tag.partition(".")
        if tag not in THREADS:
            raise Unsupported(f"a GPU has no {index.thread_tag}")
        kind = data_type(index.var.ty)
        name = self._body.names.new(index.var.name)
        self._text.variables[index.var] = Code(name, Level.ATOM, kind)
        self._threads.append(f"  const {kind.name} {name} = {THREADS[tag]}({AXES.index(axis)});")

    def _allocation(self, allocation: Any) -> None:
        buffer = allocation.buffer
        kind, scope = data_type(buffer.ty.dtype), str(buffer.ty.storage_scope)
        extent = math.prod(int(size) for size in buffer.ty.shape)
        name = self._body.names.new(buffer.name or "kept")
        if scope not in SPACES:
            raise Unsupported(f"a kernel cannot allocate {scope} memory")
        qualifier, space = SPACES[scope]
        size = f"[{extent}]"
        if space == "private" and extent == 1:
            space, size = "variable", ""
        self._text.memory[buffer] = Memory(name, kind, space)
        self._body.add(f"{qualifier}{kind.name} {name}{size};")

    def _declaration(self, declaration: Any) -> None:
        """Another view of the same memory."""
        data = declaration.data
        memory = self._text.memory[data.args[0] if isinstance(data, tvm.ir.Call) else data]
        kind = data_type(declaration.buffer.ty.dtype)
        self._text.memory[declaration.buffer] = memory.seen_as(kind)

    def _store(self, statement: Any) -> None:
        memory, value = self._text.memory[statement.buffer], statement.value
        if isinstance(value, tirx.Cast) and memory.converts(data_type(value.value.ty)):
            value = value.value
        (index,) = statement.indices
        for line in store(memory, self._text(value), index, self._text):
            self._body.add(line)

    def _if(self, choice: Any) -> None:
        with self._body.block(f"if ({self._text(choice.condition).text})"):
            self._statement(choice.then_case)
        if choice.else_case is not None:
            with self._body.block("else"):
                self._statement(choice.else_case)

    def _for(self, loop: Any) -> None:
        if loop.kind not in (tirx.ForKind.SERIAL, tirx.ForKind.UNROLLED):
            raise Unsupported(f"a loop that is {loop.kind!r} should be none by now")
        start, end = self._text(loop.min), self._text(loop.min + loop.extent)
        step = "1" if loop.step is None else self._text(loop.step).text
        kind = data_type(loop.loop_var.ty)
        name = self._body.names.new(loop.loop_var.name)
        self._text.variables[loop.loop_var] = Code(name, Level.ATOM, kind)
        next_one = f"++{name}" if step == "1" else f"{name} += {step}"
        head = f"{kind.name} {name} = {start.text}; {name} < {end.at(Level.SUM)}; {next_one}"
        with self._body.block(f"for ({head})"):
            self._statement(loop.body)

    def _while(self, loop: Any) -> None:
        with self._body.block("while (true)"):
            condition = self._text(loop.condition)
            self._body.add(f"if (!{condition.at(Level.ATOM)}) break;")
            self._statement(loop.body)

    def _evaluate(self, statement: Any) -> None:
        value = statement.value
        if isinstance(value, tirx.IntImm):
            return
        if isinstance(value, tvm.ir.Call) and value.op.name == "tirx.tvm_storage_sync":
            self._body.add("barrier(CLK_LOCAL_MEM_FENCE);")
        else:
            self._body.add(f"{self._text(value).text};")


SPACES: dict[str, tuple[str, Space]] = {
    "local": ("", "private"),
    "shared": ("__local ", "local"),
}
"""What TVM's scopes of memory are called in OpenCL C, and by us."""

STATEMENTS: dict[type, Callable[[_Kernel, Any], None]] = {
    tirx.SeqStmt: _Kernel._sequence,
    tirx.Bind: _Kernel._bind,
    tirx.AttrStmt: _Kernel._attribute,
    tirx.AllocBuffer: _Kernel._allocation,
    tirx.DeclBuffer: _Kernel._declaration,
    tirx.BufferStore: _Kernel._store,
    tirx.IfThenElse: _Kernel._if,
    tirx.For: _Kernel._for,
    tirx.While: _Kernel._while,
    tirx.Evaluate: _Kernel._evaluate,
}
"""How a statement is printed, by its class."""
