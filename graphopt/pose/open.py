"""Networks opened with what they say about poses: `open_engine`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import InputError, UsageError
from graphopt.runtime.engine import Engine, OnnxRuntimeEngine

if TYPE_CHECKING:
    from graphopt.pose.spec import PoseSpec
    from graphopt.runtime.bundle import Bundle


ENGINES = ("graphopt", "onnxruntime")
"""What `--engine` takes."""


def open_engine(
    path: Path, *, engine: str | None = None, threads: int = 0, **choices: Any
) -> tuple[Engine, PoseSpec]:
    """Open a pose network: a compiled bundle (a folder) or an ONNX file.

    Args:
        path: the bundle or the file.
        engine: one of `ENGINES`; by default graphopt for a bundle, onnxruntime for an ONNX file.
            onnxruntime runs the network that a bundle was compiled from.
        threads: CPU threads; with 0 a bundle takes every core that the process may use, and
            onnxruntime chooses.
        choices: what the user says about the network (`graphopt.pose.spec.choices`).

    Raises:
        InputError: no such path, no bundle, no ONNX file, or an engine that cannot run it.
    """
    from graphopt.pose.detect import detect_pose_spec
    from graphopt.runtime.bundle import read_bundle

    if engine not in (None, *ENGINES):
        raise UsageError(f"there is no engine {engine!r}", hint=f"one of {', '.join(ENGINES)}")
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if not path.is_dir():
        if engine == "graphopt":
            raise InputError(
                f"{path} is an ONNX file; graphopt runs compiled bundles",
                hint=f"compile it first: graphopt compile {path} -o BUNDLE",
            )
        spec = detect_pose_spec(path, **choices)
        return OnnxRuntimeEngine(path, threads=threads), spec
    if choices.pop("maps", None) is not None:
        raise InputError(
            "--maps: a bundle reads the maps that it was compiled for",
            hint="compile the network again with --maps",
        )
    bundle = read_bundle(path)
    spec = bundled_spec(bundle).with_choices(**choices)
    if engine == "onnxruntime":
        reference = OnnxRuntimeEngine(bundle.source(), threads=threads)
        # The same input size as the bundle's, also where the ONNX file takes any.
        reference.inputs = dict(bundle.manifest.inputs)
        return reference, spec
    from graphopt.runtime.open import open_bundle

    return open_bundle(path, threads=threads), spec


def bundled_spec(bundle: Bundle) -> PoseSpec:
    """How photos and people fit a bundle.

    Raises:
        InputError: it is none of a pose network.
    """
    from graphopt.pose.spec import read_pose_spec

    if "pose.json" not in bundle.manifest.files:
        raise InputError(
            f"{bundle.path} was compiled from a network whose pose maps were not recognised",
            hint="compile it again with --maps, --skeleton or both",
        )
    return read_pose_spec(bundle.path / "pose.json")
