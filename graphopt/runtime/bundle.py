"""A compiled network on disk: a folder that Python here and the device runner on a phone both run.

    manifest.json   what it is: format version, target, model, inputs, outputs, sizes and hashes
    plan.json       the static plan: arenas, tensors, launches in order (`Plan`)
    weights.bin     constants, each at a 512-byte boundary, in the byte order of the plan's tensors
    kernels.so      machine code (target kind cpu), or kernels.cl, OpenCL C (target kind gpu)
    pose.json       how photos become inputs and maps become people (`graphopt.pose.spec.PoseSpec`)

All numbers are little-endian float32 unless a tensor's dtype says otherwise. For several CPUs a
bundle has more files, see `runtime.levels`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import SerializerFunctionWrapHandler, ValidationError, model_serializer

from graphopt.errors import InputError
from graphopt.ir.files import check_writable, is_unchanged, whole_folder
from graphopt.ir.records import Record, complaint
from graphopt.runtime.levels import LEVEL_FILES, Level, only_level

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


@dataclass(frozen=True)
class Bundle(Record):
    """A bundle that was read and checked: one of its levels, the best unless another was chosen."""

    path: Path
    manifest: Manifest
    level: Level
    plan: Plan

    def at(self, level: Level) -> Bundle:
        """The same bundle at another of its levels."""
        return replace(self, level=level, plan=Plan.from_json(self.read(level.plan)))

    def read(self, name: str) -> bytes:
        """The content of one of its files."""
        return (self.path / name).read_bytes()

    def source(self) -> Path:
        """The ONNX file that the bundle was compiled from.

        Raises:
            InputError: it is no longer there, or is another file by now.
        """
        path = Path(self.manifest.model.path)
        if not is_unchanged(path, self.manifest.model.sha256):
            raise InputError(
                f"{self.path} was compiled from {path}, which is gone or has changed",
                hint="name the ONNX file instead of the bundle, or compile again",
            )
        return path


def sha256(data: bytes) -> str:
    """The hash that manifests carry."""
    return hashlib.sha256(data).hexdigest()


def is_bundle(path: Path) -> bool:
    """Whether a path looks like a bundle: a folder with a manifest."""
    return (path / "manifest.json").is_file()


_NAMES = re.compile(r"manifest\.json|pose\.json|NOTICE|kernels\.cl|" + LEVEL_FILES)


def check_place(path: Path) -> None:
    """Refuse a place for a bundle where something would be lost, or that cannot be written.

    Raises:
        InputError: says what is there.
    """
    if path.exists():
        files = [file.name for file in path.iterdir()] if path.is_dir() else []
        others = [name for name in files if not _NAMES.fullmatch(name)]
        if not is_bundle(path) or others:
            what = f"also holds {min(others)}" if is_bundle(path) else "is not a bundle"
            raise InputError(
                f"{path} exists and {what}", hint="give another folder to -o, or remove it"
            )
    check_writable(path)


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write a bundle, whole or not at all; an older bundle at `path` is replaced.

    Args:
        manifest: its `files` is filled in here.
        files: name to content.

    Returns:
        The manifest as written.

    Raises:
        InputError: see `check_place`, or the disk is full; an older bundle stays as it was.
    """
    check_place(path)
    sized = {n: File(bytes=len(data), sha256=sha256(data)) for n, data in files.items()}
    manifest = replace(manifest, files=sized)
    try:
        with whole_folder(path) as fresh:
            for name, data in files.items():
                (fresh / name).write_bytes(data)
            (fresh / "manifest.json").write_text(manifest.to_json(indent=1), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the bundle {path}: {error.strerror}") from error
    return manifest


def read_bundle(path: Path) -> Bundle:
    """Read a bundle and check that every file is the one that was written.

    Raises:
        InputError: not a bundle, made by another format version, truncated or altered; says which.
    """
    if not is_bundle(path):
        raise InputError(
            f"{path} is not a bundle (no manifest.json in it)",
            hint="graphopt compile MODEL.onnx -o BUNDLE makes one",
        )
    again = "compile it again: graphopt compile MODEL.onnx -o BUNDLE"
    try:
        manifest = Manifest.from_json((path / "manifest.json").read_bytes())
        if manifest.format != FORMAT:
            raise InputError(
                f"{path} has bundle format {manifest.format}; this graphopt reads {FORMAT}",
                hint=again,
            )
        levels = manifest.all_levels()
        needed = {name for level in levels for name in (level.plan, *level.weights)}
        needed |= {level.code for level in manifest.levels}
        if missing := needed - manifest.files.keys():
            raise InputError(
                f"{path} is damaged: its manifest does not list {', '.join(sorted(missing))}",
                hint=again,
            )
        for name, file in manifest.files.items():
            data = (path / name).read_bytes()
            if len(data) != file.bytes or sha256(data) != file.sha256:
                raise InputError(
                    f"{path / name} is damaged: not what its manifest says", hint=again
                )
        plans = [Plan.from_json((path / level.plan).read_bytes()) for level in levels]
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InputError(f"{path} is damaged: {where}: {complaint(error)}", hint=again) from error
    except OSError as error:
        raise InputError(f"cannot read the bundle {path}: {error.strerror}", hint=again) from error
    except ValueError as error:  # a null byte in a file's name
        raise InputError(f"{path} is damaged: {error}", hint=again) from error
    for plan in plans:
        for what, told, planned in (
            ("inputs", manifest.inputs, plan.inputs),
            ("outputs", manifest.outputs, plan.outputs),
        ):
            if told != {name: plan.tensors[index].shape for name, index in planned.items()}:
                raise InputError(
                    f"{path} is damaged: its manifest's {what} are not its plan's", hint=again
                )
    return Bundle(path=path, manifest=manifest, level=levels[0], plan=plans[0])
