"""What a bundle's two JSON files say: the manifest, and the static plan, as records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from graphopt.ir.records import Record
from graphopt.runtime.levels import Level, only_level

FORMAT = 3
"""Raised when a bundle made before can no longer be read."""

ALIGNMENT = 512
"""Every tensor starts at a multiple of this many bytes: OpenCL devices cut sub-buffers only at a
multiple of their CL_DEVICE_MEM_BASE_ADDR_ALIGN (128 bytes on phones, up to 512 elsewhere)."""

Stage = Literal["prepare", "input", "network", "decode"]
"""What a launch belongs to: photo to input; where floats are given instead, what makes of them the
bytes that photos become at once; input to maps; maps to people."""

Place = Literal["cpu", "gpu", "host"]
"""Where a stage runs: in the bundle's kernels, or in the code around them (host)."""


@dataclass(frozen=True, slots=True)
class Tensor(Record):
    """A tensor's place.

    `arena` -1 is weights.bin; n is the n-th arena; None is memory of its own, which the caller
    fills: a network's input, a photo. `offset` is in bytes from the start of that memory.
    """

    shape: tuple[int, ...]
    dtype: str
    arena: int | None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Launch(Record):
    """One kernel call.

    `arguments` are indices of `Plan.tensors`, in the order of the kernel's parameters.
    `grid` and `group` are global and local work sizes (gpu), empty on a CPU. `images` are positions
    of arguments that are read as one-dimensional images of four-channel pixels; such a tensor lies
    at the start of its memory. `layer` is the ONNX node that it computes (or TVM's name for a fused
    kernel; empty: that of the launch before) and `macs` its multiply-adds.
    """

    kernel: str
    arguments: tuple[int, ...]
    layer: str
    macs: int = 0
    stage: Stage = "network"
    grid: tuple[int, ...] = ()
    group: tuple[int, ...] = ()
    images: tuple[int, ...] = ()


@dataclass(frozen=True)
class Preparation(Record):
    """What a bundle begins with: from the bytes of a photo to the network's input.

    The fields that are tensors hold what differs from photo to photo; see
    `graphopt.pose.resample.tables`, and `photo` its pixels. Only the front of them is filled.
    """

    photo: int
    geometry: int
    columns: int
    rows: int
    side: int
    """Most pixels of a photo's side."""
    neighbours: int
    """How many weights of a pixel there is room for."""
    pixel: int = 3
    """Bytes of a photo's pixel: red, green, blue, and of four one that counts for nothing."""


@dataclass(frozen=True)
class Decoder(Record):
    """The decoder that a bundle ends with: from the network's maps to people.

    Its kernels are the last launches. Limits are compiled in.
    """

    thresholds: int
    """The tensor of numbers that may differ from photo to photo (`pose.kernel_decoder`)."""
    defaults: tuple[float, float, float, float, float]
    """What it holds unless the caller wants other numbers."""
    outputs: dict[str, int]
    max_peaks: int
    max_people: int
    samples: int


@dataclass(frozen=True)
class Plan(Record):
    """Everything that happens in one run of the network, decided when it was compiled."""

    arenas: tuple[int, ...] = ()
    """Bytes of each block of working memory."""
    tensors: tuple[Tensor, ...] = ()
    launches: tuple[Launch, ...] = ()
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    preparation: Preparation | None = None
    decoder: Decoder | None = None


@dataclass(frozen=True)
class Model(Record):
    """The ONNX file that a bundle was compiled from."""

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class BundleTarget(Record):
    """What a bundle runs on.

    `host` is the machine that CPU kernels were compiled for, a triple; "" is any.
    """

    name: str
    kind: Literal["cpu", "gpu"]
    host: str
    cpu_features: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    description: str


@dataclass(frozen=True)
class Comparison(Record):
    """How far a bundle's outputs are from onnxruntime's, as parts of their range.

    Where they are quantised, of the range that their steps cover.
    """

    difference: float
    """The largest."""
    noise: float | None = None
    """The difference between onnxruntime with and without its optimisations, where the usual limit
    was exceeded."""
    failures: tuple[str, ...] = ()
    """The checks that failed and were overruled (`--on-fail warn`)."""


@dataclass(frozen=True)
class File(Record):
    """Size and hash of a file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest(Record):
    """What a bundle is; written last, so that a folder with a manifest is whole."""

    format: int
    graphopt: str
    tvm: str
    target: BundleTarget
    model: Model
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    macs: int
    runs: dict[Stage, Place]
    """Which stages there are from photo to people, and where each of their operators runs."""
    files: dict[str, File]
    comparison: Comparison | None = None
    """None where the bundle could not be run when it was made, and in older ones."""
    precision: str = ""
    """`bfloat16` where its convolutions multiply in it; its tensors are uint16, the bits."""
    levels: tuple[Level, ...] = ()
    """For several CPUs, the best first; the target has what all of them need."""

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        """The JSON form; what older manifests have not is left out where it says nothing."""
        return {k: v for k, v in write(self).items() if v or k not in ("precision", "levels")}

    def all_levels(self) -> tuple[Level, ...]:
        """`levels`, or the one that other bundles have."""
        if self.target.kind == "gpu":
            return (only_level(self.target.cpu_features, "kernels.cl"),)
        return self.levels or (only_level(self.target.cpu_features, "kernels.so"),)
