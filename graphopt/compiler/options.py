"""Options of the commands `compile` and `tune`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from graphopt.display.options import Option, Panel
from graphopt.ir.options import InputShape
from graphopt.pose.options import PoseOptions

Post: TypeAlias = Literal["paf", "none"]
"""What follows a network in its bundle."""
PrecisionChoice: TypeAlias = Literal["auto", "float32", "bfloat16", "float16", "int8"]
"""What convolutions compute in."""
OnFail: TypeAlias = Literal["stop", "warn"]
"""What a comparison with onnxruntime that fails does."""

IMAGES = 20
"""How many photos (half as many made-up images) show what half precision cannot hold."""
MAX_PHOTO = 1920
"""Most pixels of a photo's side that bundles prepare: video frames. Larger ones are scaled by
Pillow."""


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """What a network is compiled for, and how.

    A target is a file name of `graphopt/codegen/targets`; for hosts see `codegen.hosts`, "" is this
    machine. Where an input has dynamic extents and `input_shape` gives it no size, height is the
    pose network's usual one and the width 16/9 of it. `tuning` chooses what `graphopt tune` found
    (`compiler.tuning_cache`); `compiler.auto_precision` the precision, where that is left out. With
    `on_fail="warn"` a bundle is written that differs from onnxruntime, too, as long as its outputs
    are finite and differ by less than their range; the manifest then says so.
    """

    target: Annotated[
        str,
        Option(
            "cpu: this machine's, as wide as its vectors, or that of --host; opencl: any "
            "device; mali; adreno: OpenCL with input as images.",
            Panel.TARGET,
        ),
    ] = "cpu"
    host: Annotated[
        str,
        Option(
            "The machine that the bundle is for: aarch64-linux-android, aarch64-linux-gnu, "
            "x86_64-linux-gnu; this one if left out.",
            Panel.TARGET,
            "TRIPLE",
        ),
    ] = ""
    cpu_features: Annotated[
        str,
        Option(
            "What kernels may use of its CPU, as /proc/cpuinfo names it: i8mm, asimddp, bf16; "
            "avx512_vnni, amx_bf16, avx2. If left out: all of this CPU.",
            Panel.TARGET,
            "LIST",
        ),
    ] = ""
    cpu_levels: Annotated[
        tuple[str, ...],
        Option(
            "Kernels for several CPUs in one bundle, each level named by features (joined by +): "
            "avx2,avx512_vnni,amx_int8. The best is chosen when it is opened. If left out: of "
            "this machine its own; of another, those that pay.",
            Panel.TARGET,
            "LIST",
            separator=",",
        ),
    ] = ()
    input_shape: InputShape = ()
    tuning: Annotated[
        str,
        Option(
            "Which kernels: auto, those that tune found fastest here; off, those estimated to "
            "be; or a tuning file.",
            Panel.TARGET,
            "auto|off|FILE",
        ),
    ] = "auto"
    precision: Annotated[
        PrecisionChoice | None,
        Option(
            "What convolutions compute in: float32; bfloat16, as --bf16; float16, as "
            "--fp16-arithmetic; int8, of quantised networks; auto: of those that pass the checks "
            "what --device is predicted to be fastest in, or this machine measured. If left out: "
            "bfloat16 on this CPU if it has amx_bf16 and gains much by it, else float32.",
            Panel.TARGET,
        ),
    ] = None
    device: Annotated[
        str | None,
        Option(
            "Take the precision that a device is predicted to be fastest in: adreno-640 …, or your "
            "own profile.",
            Panel.TARGET,
            "NAME|F.toml",
        ),
    ] = None
    fp16: Annotated[
        bool, Option("Store weights, on opencl activations too, in half precision.", Panel.TARGET)
    ] = False
    fp16_arithmetic: Annotated[
        bool,
        Option(
            "Compute in half precision too, on a GPU that can (cl_khr_fp16), or an Arm CPU "
            "(asimdhp).",
            Panel.TARGET,
        ),
    ] = False
    bf16: Annotated[
        bool,
        Option(
            "Compute in bfloat16, with float32 sums, on a CPU that can (avx512_bf16, amx_bf16; "
            "bf16 on Arm).",
            Panel.TARGET,
        ),
    ] = False
    dequantize: Annotated[
        bool,
        Option("Compute a quantised network in floats, which some GPUs do faster.", Panel.TARGET),
    ] = False
    calib: Annotated[
        Path | None,
        Option(
            "Photos that show what half precision cannot hold, and people to a quantised or "
            "bfloat16 network; made-up images if left out.",
            Panel.PHOTOS,
            "DIR",
        ),
    ] = None
    calib_photos: Annotated[int, Option("How many of them at most.", Panel.PHOTOS, min=1)] = IMAGES
    post: Annotated[
        Post,
        Option("What follows a pose network: paf, a decoder's kernels; or none.", Panel.PEOPLE),
    ] = "paf"
    max_people: Annotated[
        int, Option("People that the decoder keeps: the best of more.", Panel.PEOPLE, min=1)
    ] = 128
    max_peaks: Annotated[
        int,
        Option("Candidates that it keeps for each part: the best of more.", Panel.PEOPLE, min=1),
    ] = 128
    max_photo: Annotated[
        int,
        Option(
            "Most pixels of a photo's side that kernels scale and pad; larger ones are scaled "
            "by Pillow. 0: all are.",
            Panel.VIEW,
            min=0,
        ),
    ] = MAX_PHOTO
    require_full_gpu: Annotated[
        bool, Option("Fail if anything would be left to a CPU.", Panel.TARGET)
    ] = False
    on_fail: Annotated[
        OnFail,
        Option(
            "If it differs from onnxruntime: stop, or write it with a warning; the manifest "
            "says so.",
            Panel.CHECKS,
        ),
    ] = "stop"
    pose: PoseOptions = field(default_factory=PoseOptions)


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """What is tuned for, and how it is measured."""

    target: Annotated[str, Option("Whose kernels: cpu or opencl, as in compile.", Panel.TARGET)] = (
        "cpu"
    )
    input_shape: InputShape = ()
    threads: Annotated[
        int | None, Option("CPU threads; every core if left out.", Panel.SIZE, min=1)
    ] = None
