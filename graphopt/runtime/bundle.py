"""A compiled network on disk: a folder that Python here and the device runner on a phone both run.

    manifest.json   what it is: format version, target, model, inputs, outputs, sizes and hashes
    plan.json       the static plan: arenas, tensors, launches in order (`plan.Plan`)
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
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from graphopt.errors import InputError
from graphopt.ir.files import check_writable, is_unchanged, whole_folder
from graphopt.ir.records import Record, complaint
from graphopt.runtime.levels import LEVEL_FILES, Level
from graphopt.runtime.plan import FORMAT, File, Manifest, Plan


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


def copy_bundle(bundle: Bundle, path: Path) -> None:
    """Write a bundle that was read once more, elsewhere.

    Raises:
        InputError: see `write_bundle`.
    """
    manifest = bundle.manifest
    write_bundle(path, manifest, {name: bundle.read(name) for name in manifest.files})


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
