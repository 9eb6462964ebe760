"""Networks opened with what they say about poses: `open_engine`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import InputError, UsageError
from graphopt.runtime.engine import Engine, OnnxRuntimeEngine

if TYPE_CHECKING:
    from graphopt.pose.spec import AnySpec, PoseSpec
    from graphopt.runtime.bundle import Bundle


ENGINES = ("graphopt", "onnxruntime")
"""What `--engine` takes."""


def open_engine(
    path: Path, *, engine: str | None = None, threads: int = 0, **choices: Any
) -> tuple[Engine, PoseSpec]:
    """Open a pose network whose outputs are maps; see `open_any`.

    Raises:
        InputError: as there, or the outputs are not maps.
    """
    opened, spec = open_any(path, engine=engine, threads=threads, **choices)
    return opened, with_maps(spec, path)


def open_any(
    path: Path, *, engine: str | None = None, threads: int = 0, **choices: Any
) -> tuple[Engine, AnySpec]:
    """Open a pose network of any head: a compiled bundle (a folder) or an ONNX file.

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
    from graphopt.pose.head_choice import detect_head
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
        spec = detect_head(path, **choices)
        return OnnxRuntimeEngine(path, threads=threads), spec
    for option, what in (("maps", "maps"), ("head", "outputs")):
        if choices.pop(option, None) is not None:
            raise InputError(
                f"--{option}: a bundle reads the {what} that it was compiled for",
                hint=f"compile the network again with --{option}",
            )
    bundle = read_bundle(path)
    spec = any_bundled_spec(bundle).with_choices(**choices)
    if engine == "onnxruntime":
        reference = OnnxRuntimeEngine(bundle.source(), threads=threads)
        # The same input size as the bundle's, also where the ONNX file takes any.
        reference.inputs = dict(bundle.manifest.inputs)
        return reference, spec
    from graphopt.runtime.open import open_bundle

    return open_bundle(path, threads=threads), spec


def bundled_spec(bundle: Bundle) -> PoseSpec:
    """How photos and people fit a bundle whose network answers with maps.

    Raises:
        InputError: it is none of a pose network, or of one with another head.
    """
    return with_maps(any_bundled_spec(bundle), bundle.path)


def any_bundled_spec(bundle: Bundle) -> AnySpec:
    """How photos and people fit a bundle, whatever its network's head.

    Raises:
        InputError: it is none of a pose network.
    """
    from graphopt.pose.head_choice import read_spec

    if "pose.json" not in bundle.manifest.files:
        raise InputError(
            f"{bundle.path} was compiled from a network whose pose maps were not recognised",
            hint="compile it again with --maps, --skeleton or both",
        )
    return read_spec(bundle.path / "pose.json")


def find_spec(path: Path, **choices: Any) -> AnySpec:
    """How photos and people fit a network or a bundle, whatever the head.

    Raises:
        InputError: see `open_any`.
    """
    from graphopt.pose.head_choice import detect_head
    from graphopt.runtime.bundle import read_bundle

    if not path.is_dir():
        return detect_head(path, **choices)
    known = {k: v for k, v in choices.items() if k not in ("maps", "head")}
    return any_bundled_spec(read_bundle(path)).with_choices(**known)


def with_maps(spec: AnySpec, path: Path) -> PoseSpec:
    """A pose spec that reads maps.

    Raises:
        InputError: it is another head's.
    """
    from graphopt.pose.head_choice import head_of
    from graphopt.pose.spec import PoseSpec

    if not isinstance(spec, PoseSpec):
        raise InputError(
            f"{path} has the head {head_of(spec).name}; this needs heat maps",
            hint="graphopt run, eval and compile take every head",
        )
    return spec
