"""The compile pipeline, phase by phase: ONNX in; plan, weights and kernels out.

import      ONNX -> Relax, names kept                                  importer.py
kernels     convolutions -> our TIR kernels, blocked activations,      layout.py, kernels/,
            some tensors in half precision                             halves.py
legalise    every other operator -> TIR by TVM, fused                  TVM
schedule    those kernels -> parallel loops (cpu) or a grid (gpu)      schedule.py
memory      all tensors -> arenas, lifetimes known                     TVM
plan        the straight-line program -> plan, weights, kernels        plan.py
preparation kernels from a photo to the input, or to its bytes          preprocess_stage.py
decoder     kernels from maps to people, after the network's           decoder.py
code        TIR -> machine code or OpenCL C                            machine_code.py

Up to `memory`, a library for TVM's own runtime is made in the same way (standard.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import onnx
import tvm
from tvm import relax

from graphopt.codegen.importing.importer import import_onnx
from graphopt.codegen.importing.products import products_as_convolutions
from graphopt.codegen.importing.quantisation import LOWERED, with_float_weights
from graphopt.codegen.importing.quantised_weights import quantised_weights
from graphopt.codegen.kernels.conv.choice import KernelChoice
from graphopt.codegen.linking import machine_code
from graphopt.codegen.lowering.decode_stage import can_decode, with_decoder
from graphopt.codegen.lowering.lower_convolutions import LoweredLayer, use_our_kernels
from graphopt.codegen.lowering.memory_plan import copy_inputs, make_plan
from graphopt.codegen.lowering.mixed_precision import Halves
from graphopt.codegen.lowering.preprocess_stage import can_prepare, with_preparation
from graphopt.codegen.lowering.schedule import schedule_rest
from graphopt.codegen.targets import Target
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.spec import AnySpec, PoseSpec
from graphopt.runtime.plan import Plan

Progress = Callable[..., None]
"""Called with a phase's name, and what it is working on."""


@dataclass(frozen=True)
class Compiled:
    """What compiling gives: the contents of a bundle.

    Args:
        plan: the static plan.
        weights: the content of weights.bin.
        code: the content of the kernels' file.
        code_file: its name, `kernels.so` or `kernels.cl`.
        kept: what stays in float32 because half precision cannot hold it, a phrase each.
        features: what a CPU must have for the kernels, beside the target's features.
    """

    plan: Plan
    weights: bytes
    code: bytes
    code_file: str
    kept: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


LEGALISE = (
    relax.transform.LegalizeOps(LOWERED),
    relax.transform.AnnotateTIROpPattern(),
    relax.transform.FoldConstant(),
    relax.transform.FuseOps(),
    relax.transform.FuseTIR(),
    relax.transform.DeadCodeElimination(),
)
"""What our kernels do not cover, as TIR from TVM; runs of element-wise operators become one."""

MEMORY = (
    relax.transform.ToNonDataflow(),
    relax.transform.RemovePurityChecking(),
    relax.transform.CallTIRRewrite(),
    relax.transform.StaticPlanBlockMemory(),
    relax.transform.LowerAllocTensor(),
)
"""Calls with explicit outputs, in storages that are shared by tensors never alive together."""


def compile_network(
    model: onnx.ModelProto,
    target: Target,
    measured: Mapping[str, KernelChoice] = MappingProxyType({}),
    largest: Mapping[str, float] | None = None,
    progress: Progress = lambda *_: None,
    *,
    pose: AnySpec | None = None,
    side: int = 0,
    limits: DecodeOptions | None = None,
) -> Compiled:
    """Compile a network.

    Args:
        model: static shapes, batch 1; every node has a name.
        target: what to compile for.
        measured: which kernels are fastest, see `layout.use_our_kernels`.
        largest: the largest absolute value of tensors, by name; with it, what fits is stored in
            half precision.
        progress: told each phase as it begins, and in the last one each kernel as its code is
            made, with a layer that needs it.
        pose: what photos become, and where the maps are.
        side: most pixels of a photo's side that kernels prepare; 0 for none. None do without
            `pose`, nor where the input is not one float32 picture.
        limits: of the decoder that is to follow; none does without it and `pose`, nor where maps
            are not float32.

    Raises:
        Unsupported: an operator that neither our kernels nor TVM have; names the node.
    """
    device = machine_code.tvm_target(target)
    with device:
        module, layers, kept = lower_network(model, target, measured, largest, progress)
        features = sorted({feature for layer in layers for feature in layer.features})
        progress("plan")
        inputs = [i.name for i in model.graph.input]
        outputs = [o.name for o in model.graph.output]
        plan, weights, functions = make_plan(module, layers, inputs, outputs)
        if pose is not None and side and can_prepare(plan):
            progress("preparation")
            plan, weights, preparing = with_preparation(
                plan, weights, functions, pose.preprocess, side, target, features
            )
            functions |= preparing
        if isinstance(pose, PoseSpec) and limits is not None and can_decode(plan, pose):
            progress("decoder")
            plan, weights, decoding = with_decoder(plan, weights, pose, target, limits)
            functions |= decoding
        layer_of = {launch.kernel: launch.layer for launch in plan.launches}

        def making(kernel: str) -> None:
            progress("code", f"{kernel} for {layer_of[kernel]}")

        plan, code_file, code = machine_code.compiled(functions, plan, target, making)
    return Compiled(plan, weights, code, code_file, kept, tuple(features))


def lower_network(
    model: onnx.ModelProto,
    target: Target,
    measured: Mapping[str, KernelChoice] = MappingProxyType({}),
    largest: Mapping[str, float] | None = None,
    progress: Progress = lambda *_: None,
) -> tuple[tvm.IRModule, list[LoweredLayer], tuple[str, ...]]:
    """A network as a list of kernel calls, under the current TVM target.

    Args:
        model, target, measured, largest, progress: as in `compile_network`.

    Returns:
        `main` and the kernels that it calls; the calls of ours, in order; what stays in float32
        because half precision cannot hold it.
    """
    progress("import")
    if target.byte_lanes:
        model = products_as_convolutions(model)
    module, node_of = import_onnx(model)
    module = with_float_weights(module)
    progress("kernels")
    halves = None if largest is None else _halves(model, target, largest)
    weights = quantised_weights(model) if target.byte_lanes else {}
    module, layers = use_our_kernels(module, target, node_of, measured, halves, weights)
    progress("legalise")
    module = tvm.transform.Sequential(list(LEGALISE))(module)
    progress("schedule")
    module = schedule_rest(module, target)
    progress("memory")
    module = relax.transform.RewriteDataflowReshape()(module)
    module = copy_inputs(module, target)
    module = tvm.transform.Sequential(list(MEMORY))(module)
    return module, layers, tuple(halves.kept) if halves else ()


def _halves(model: onnx.ModelProto, target: Target, largest: Mapping[str, float]) -> Halves:
    of_node = {n.name: largest[n.output[0]] for n in model.graph.node if n.output[0] in largest}
    # A CPU computes more than it moves: there halved activations were seen to cost 4% of the time,
    # unless they are what it computes with.
    return Halves(of_node, activations=target.kind == "gpu" or target.arithmetic == "float16")
