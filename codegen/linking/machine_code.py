"""TIR kernels -> a shared library for a CPU, or OpenCL C for any device."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import s_tir, tirx
from tvm.s_tir.pipeline import finalize_device_passes

from graphopt.codegen.linking import kernel_cache
from graphopt.codegen.linking.linker import link
from graphopt.codegen.linking.opencl_c import kernel_source
from graphopt.codegen.linking.opencl_dot import DOT_PRODUCTS
from graphopt.codegen.linking.opencl_memory import MACROS
from graphopt.codegen.targets import Target
from graphopt.errors import GraphoptError
from graphopt.ir.records import Record
from graphopt.runtime.cpu import this_host
from graphopt.runtime.plan import BundleTarget, Plan, Tensor


@dataclass(frozen=True)
class DeviceCall(Record):
    """One OpenCL kernel launch inside a TIR function.

    Args:
        kernel: the kernel's name in the source.
        arguments: for each kernel parameter, the function's parameter by position, or past those
            the function's own working buffers.
        grid: global work size.
        group: local work size.
        images: the kernel's parameters, by position, that are images of a buffer's memory.
    """

    kernel: str
    arguments: tuple[int, ...]
    grid: tuple[int, ...]
    group: tuple[int, ...]
    images: tuple[int, ...] = ()


@dataclass(frozen=True)
class DeviceFunction(Record):
    """A TIR function on an OpenCL device: its launches, and its working buffers' tensors."""

    calls: tuple[DeviceCall, ...]
    buffers: tuple[Tensor, ...]


@dataclass(frozen=True)
class _DeviceCode(Record):
    """A TIR function as OpenCL C, a text for each of its kernels, and how it launches them."""

    sources: tuple[str, ...]
    function: DeviceFunction


def tvm_target(target: Target, host: str = "") -> Any:
    """TVM's own object for a target; `host` is the machine that a GPU belongs to, "" this one."""
    device = tvm.target.Target(target.tvm)
    if target.kind == "cpu":
        return device
    return tvm.target.Target(device, host={"kind": "llvm", **({"mtriple": host} if host else {})})


def shared_library(
    functions: Mapping[str, Any],
    device: Any,
    progress: Callable[[str], None] = lambda _: None,
    *,
    host: str = "",
) -> bytes:
    """Compile with LLVM and link; each kernel is the symbol `__tvm_ffi_NAME`.

    Args:
        functions: TIR by name.
        device: from `tvm_target`.
        progress: told each function.
        host: the machine that it is for, see `graphopt.codegen.linking.linker`.

    Raises:
        Unsupported: there is no linker on this machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        objects: list[Path] = []
        # One module a kernel, so that a crash inside LLVM is known by the kernel's name.
        for name, function in functions.items():
            progress(name)
            function = function.with_attr("global_symbol", name)
            make = partial(_object_file, name, function, device)
            objects.append(Path(folder) / f"{len(objects)}.o")
            objects[-1].write_bytes(kernel_cache.made_once("object", function, device, make))
        kernel_cache.tidy()
        library = Path(folder) / "kernels.so"
        link(objects, library, host)
        return library.read_bytes()


def _object_file(name: str, function: Any, device: Any) -> bytes:
    """A kernel compiled with LLVM."""
    built = tvm.tirx.build(tvm.IRModule({name: function}), target=device, pipeline="s_tir")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.o"
        built.write_to_file(str(file))
        return file.read_bytes()


def description(target: Target, features: Sequence[str] = ()) -> BundleTarget:
    """What a bundle says of the target that it was compiled for.

    Args:
        target: what was compiled for.
        features: what a CPU must have beside the target's features.
    """
    return BundleTarget(
        name=target.name,
        kind=target.kind,
        host=(target.host or this_host()) if target.kind == "cpu" else "",
        cpu_features=tuple(dict.fromkeys((*target.cpu_features, *features))),
        extensions=target.extensions,
        description=str(tvm.target.Target(target.tvm)),
    )


def compiled(
    functions: Mapping[str, Any],
    plan: Plan,
    target: Target,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Plan, str, bytes]:
    """The code of a plan's kernels.

    Args:
        functions: TIR by the name that the plan launches it by.
        plan: what launches them.
        target: what to compile for.
        progress: told each function.

    Returns:
        The plan with the device's own launches, and the code file's name and content.
    """
    device = tvm_target(target)
    with device:
        if target.kind == "cpu":
            return plan, "kernels.so", shared_library(functions, device, progress, host=target.host)
        source, launches = opencl_source(functions, device, progress, images=target.images)
        return with_launches(plan, launches), "kernels.cl", source


LOWER = (
    s_tir.transform.CanonicalizeLoop(),
    s_tir.transform.LowerCrossThreadReduction(),
    s_tir.transform.LowerInitBlock(),
    s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
    s_tir.transform.ConvertBlocksToOpaque(),
    s_tir.transform.LiftThreadBinding(),
    s_tir.transform.CompactBufferAllocation(),
    s_tir.transform.UnifyThreadBinding(),
    s_tir.transform.LowerMatchBuffer(),
    s_tir.transform.StmtSimplify(),
    s_tir.transform.LowerOpaqueBlock(),
    tirx.transform.FlattenBuffer(),
    tirx.transform.NarrowDataType(32),
    s_tir.transform.LoopPartition(),
    tirx.transform.VectorizeLoop(True),
    s_tir.transform.InjectVirtualThread(),
    tirx.transform.StorageRewrite(),
    tirx.transform.UnrollLoop(),
    s_tir.transform.RenormalizeSplitPattern(),
    tirx.transform.StmtSimplify(),
    tirx.transform.RemoveNoOp(),
    s_tir.transform.RewriteUnsafeSelect(),
    tirx.transform.CommonSubexprElim(),
    tirx.transform.AnnotateEntryFunc(),
    s_tir.transform.ThreadSync("shared"),
    s_tir.transform.LowerThreadAllreduce(),
    s_tir.transform.MergeSharedMemoryAllocations(),
    tirx.transform.SplitHostDevice(),
)
"""TVM's lowering for devices, as far as the split: what is left of the host function is a list of
launches, from which names, argument orders and work sizes can be read."""


def opencl_source(
    functions: Mapping[str, Any],
    device: Any,
    progress: Callable[[str], None] = lambda _: None,
    *,
    images: bool = False,
) -> tuple[bytes, dict[str, DeviceFunction]]:
    """OpenCL C of all kernels, and how each function launches them.

    Args:
        functions: TIR by name.
        device: from `tvm_target`.
        progress: told each function.
        images: functions' first parameters are images where kernels can read them so.

    Raises:
        Unsupported: a kernel does something that OpenCL C has no word for.
    """
    sources, launched = [MACROS], {}
    for name, function in functions.items():
        progress(name)
        function = function.with_attrs({"global_symbol": name, "target": device})
        make = partial(_device_code, name, function, images)
        what = "OpenCL C with images" if images else "OpenCL C"
        kept = kernel_cache.made_once(what, function, device, make)
        code = _DeviceCode.from_json(kept)
        sources += code.sources
        launched[name] = code.function
    kernel_cache.tidy()
    if any("DOT4(" in source for source in sources):
        sources.insert(1, DOT_PRODUCTS)
    return "\n".join(sources).encode(), launched


def _device_code(name: str, function: Any, images: bool) -> bytes:
    """A kernel lowered to OpenCL C: a `_DeviceCode` as JSON."""
    module = tvm.transform.Sequential(list(LOWER))(tvm.IRModule({name: function}))
    host = _read_host(module[name])
    kernels = tirx.transform.Filter(lambda f: "calling_conv" in f.attrs)(module)
    kernels = {g.name_hint: f for g, f in finalize_device_passes()(kernels).functions.items()}
    sources, calls = [], []
    for call in host.calls:
        may_be = [i for i, argument in enumerate(call.arguments) if images and argument == 0]
        source, is_image = kernel_source(call.kernel, kernels[call.kernel], may_be)
        sources.append(source)
        calls.append(replace(call, images=tuple(may_be) if is_image else ()))
    return _DeviceCode(tuple(sources), replace(host, calls=tuple(calls))).to_json().encode()


def _read_host(host: Any) -> DeviceFunction:
    """The launches in a host function, which is straight-line code after the split."""
    place = {parameter: i for i, parameter in enumerate(host.params)}
    buffers: list[Tensor] = []
    calls = []
    for statement in getattr(host.body, "seq", [host.body]):
        if isinstance(statement, tirx.DeclBuffer):
            place[statement.buffer] = place[statement.data.args[0]]
        elif isinstance(statement, tirx.AllocBuffer):
            place[statement.buffer] = len(host.params) + len(buffers)
            shape = tuple(int(extent) for extent in statement.buffer.shape)
            # A buffer that is only used by vectors has vectors as elements by now: float32x4.
            dtype, _, lanes = str(statement.buffer.dtype).partition("x")
            buffers.append(Tensor(shape=(*shape, int(lanes or 1)), dtype=dtype, arena=None))
        elif isinstance(statement, tirx.Evaluate) and isinstance(statement.value, tvm.ir.Call):
            calls.append(_read_launch(statement.value, place))
        else:
            raise GraphoptError(f"TVM made a host program that is no list of launches: {statement}")
    return DeviceFunction(tuple(calls), tuple(buffers))


def _read_launch(call: Any, place: Mapping[Any, int]) -> DeviceCall:
    tags = [str(tag) for tag in call.attrs.launch_params]
    name, *operands = call.args
    values = dict(zip(tags, operands[len(operands) - len(tags) :], strict=True))
    buffers = operands[: len(operands) - len(tags)]
    # OpenCL's global size counts work-items, TVM's blockIdx groups.
    used = [axis for axis in "xyz" if f"blockIdx.{axis}" in values or f"threadIdx.{axis}" in values]
    group = tuple(int(values.get(f"threadIdx.{axis}", 1)) for axis in used)
    blocks = tuple(int(values.get(f"blockIdx.{axis}", 1)) for axis in used)
    return DeviceCall(
        kernel=str(name.value),
        arguments=tuple(place[buffer.args[0]] for buffer in buffers),
        grid=tuple(b * g for b, g in zip(blocks, group, strict=True)) or (1,),
        group=group or (1,),
    )


def with_launches(plan: Plan, functions: Mapping[str, DeviceFunction]) -> Plan:
    """The plan with each function call replaced by the device's kernel launches.

    Launches run one after the other, so all functions have their working buffers in the same
    arenas.
    """
    tensors, launches = list(plan.tensors), []
    working: dict[int, int] = {}
    for launch in plan.launches:
        function = functions[launch.kernel]
        arguments = list(launch.arguments)
        for arena, buffer in enumerate(function.buffers, start=len(plan.arenas)):
            arguments.append(len(tensors))
            tensors.append(replace(buffer, arena=arena))
            size = int(np.prod(buffer.shape)) * np.dtype(buffer.dtype).itemsize
            working[arena] = max(size, working.get(arena, 0))
        for i, call in enumerate(function.calls):
            step = replace(
                launch,
                kernel=call.kernel,
                arguments=tuple(arguments[a] for a in call.arguments),
                grid=call.grid,
                group=call.group,
                images=call.images,
                layer="" if i else launch.layer,
                macs=0 if i else launch.macs,
            )
            launches.append(step)
    arenas = (*plan.arenas, *working.values())
    return replace(plan, arenas=arenas, tensors=tuple(tensors), launches=tuple(launches))
