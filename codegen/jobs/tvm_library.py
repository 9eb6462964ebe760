"""A network as a library for TVM's own runtime: the same kernels, called by its virtual machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
import tvm
from tvm import relax

from graphopt.codegen.jobs.compile_network import Progress, lower_network
from graphopt.codegen.kernels.conv.choice import KernelChoice
from graphopt.codegen.linking import machine_code
from graphopt.codegen.linking.linker import link
from graphopt.codegen.targets import Target
from graphopt.errors import Unsupported
from graphopt.ir.arrays import Array
from graphopt.ir.version import VERSION
from graphopt.runtime import plan
from graphopt.runtime.cpu import this_host

MANIFEST = "graphopt_manifest"
"""The library's function that returns its `graphopt.runtime.plan.Manifest` as JSON; no file
beside the library that says it could be lost."""

MACHINE = (
    relax.transform.KillAfterLastUse(),
    relax.transform.LowerRuntimeBuiltin(),
    relax.transform.ComputePrimValue(),
    relax.transform.VMShapeLower(),
    relax.transform.AttachGlobalSymbol(),
)
"""What is left of TVM's own way to its virtual machine after `stages.MEMORY`."""


def write_library(
    model: onnx.ModelProto,
    target: Target,
    source: plan.Model,
    path: Path,
    host: str = "",
    measured: Mapping[str, KernelChoice] = MappingProxyType({}),
    progress: Progress = lambda *_: None,
) -> plan.Manifest:
    """Compile a network; the library's `main` takes its inputs and returns its outputs, in order.

    Args:
        model: static shapes, batch 1; every node has a name.
        target: what to compile for. Input that its kernels read as images they read from buffers
            here: this format's OpenCL C is TVM's, which has no images of one dimension.
        source: the ONNX file that it comes from.
        path: the file to write.
        host: the machine that it is for, see `graphopt.codegen.linking.linker`; "" is this one.
        measured: which kernels are fastest, see `layout.use_our_kernels`.
        progress: told each phase as it begins.

    Returns:
        What the library is, as it says itself.

    Raises:
        Unsupported: an operator that neither our kernels nor TVM have; names the node.
    """
    # Nobody asks Linux for the tiles of AMX where TVM's own runtime runs the kernels.
    target = replace(target, tiles="")
    device = machine_code.tvm_target(target, host)
    with device:
        module, layers, _ = lower_network(model, target, measured, progress=progress)
        progress("code")
        main = module["main"]
        features = sorted({feature for layer in layers for feature in layer.features})
        manifest = plan.Manifest(
            format=plan.FORMAT,
            graphopt=VERSION,
            tvm=tvm.__version__,
            target=replace(machine_code.description(target, features), host=host or this_host()),
            model=source,
            inputs=_shapes(model.graph.input, [parameter.ty for parameter in main.params]),
            outputs=_shapes(model.graph.output, main.ret_ty.fields),
            macs=sum(layer.macs for layer in layers),
            runs={},
            files={},
        )
        text = relax.Function([], tvm.ir.StringImm(manifest.to_json()))
        module[MANIFEST] = text.with_attr("global_symbol", MANIFEST)
        module = tvm.transform.Sequential(list(MACHINE))(module)
        built = relax.build(module, device, relax_pipeline=None, tir_pipeline="s_tir")

    def linked(library: str, objects: Sequence[str]) -> None:
        link([Path(file) for file in objects], Path(library), host, runner="libtvm_ffi.so")

    built.export_library(str(path), fcompile=linked)
    return manifest


def _shapes(
    values: Sequence[onnx.ValueInfoProto], types: Sequence[Any]
) -> dict[str, tuple[int, ...]]:
    named = zip(values, types, strict=True)
    return {value.name: tuple(int(extent) for extent in ty.shape) for value, ty in named}


DEVICES = {"cpu": "cpu", "gpu": "opencl"}
"""What TVM calls the device of a target's kind."""


def run_library(
    path: Path, target: plan.BundleTarget, inputs: Sequence[Sequence[Array]]
) -> Iterator[tuple[Array, ...]]:
    """A library's outputs on this machine, for one set of inputs after the other.

    Args:
        path: the library.
        target: what it runs on.
        inputs: of the network, in order.

    Raises:
        Unsupported: that is not here.
    """
    if target.host != this_host():
        raise Unsupported(f"it was compiled for {target.host}, and this is {this_host()}")
    device = tvm.device(DEVICES[target.kind])
    if not device.exist:
        raise Unsupported(f"TVM's runtime finds no device for {DEVICES[target.kind]} here")
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), device)
    for values in inputs:
        results = machine["main"](*(tvm.runtime.tensor(value, device) for value in values))
        yield tuple(result.numpy() for result in results)
