"""Something that turns named input arrays into named output arrays: an engine.

`run`, `eval`, `bench` and the verification of passes know networks only through this contract, so
that a compiled bundle, onnxruntime and any competitor are judged by the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import InputError, UsageError

if TYPE_CHECKING:
    from graphopt.pose.spec import PoseSpec
    from graphopt.runtime.bundle import Bundle

Array = NDArray[np.generic]
Shape = tuple[int | None, ...]
"""A tensor's extents; None where any extent will do."""


_COLOURS = (1, 3, 4)
"""Channels of pictures: grey, colours, colours and a mask."""


def channels_last(shape: Sequence[int | str | None]) -> bool:
    """Whether a tensor of this shape is a picture as TensorFlow lays it out: [N,H,W,C]."""
    return len(shape) == 4 and shape[3] in _COLOURS and shape[1] not in _COLOURS


def has_colours(shape: Sequence[int | str | None]) -> bool:
    """Whether a tensor of this shape can be a picture, [N,C,H,W] or [N,H,W,C]."""
    return len(shape) == 4 and (shape[1] in _COLOURS or shape[3] in _COLOURS)


class Engine(Protocol):
    """A network that is ready to run."""

    name: str
    """As users know it: `graphopt`, `onnxruntime` …"""
    inputs: Mapping[str, Shape]
    outputs: Sequence[str]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name, in freshly allocated arrays."""
        ...


class OnnxRuntimeEngine:
    """An ONNX file or serialised model, run by onnxruntime on the CPU.

    Args:
        model: the file's path, or the serialised ModelProto.
        threads: intra-op threads; 0 leaves it to onnxruntime.
        optimize: False runs the graph as it is written, node by node.

    Raises:
        InputError: when onnxruntime refuses the model; the message is onnxruntime's reason.
    """

    name = "onnxruntime"

    def __init__(self, model: Path | bytes, *, threads: int = 0, optimize: bool = True) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = ort.InferenceSession(
                str(model) if isinstance(model, Path) else model,
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # onnxruntime raises a class of its own for each status code
            what = model if isinstance(model, Path) else "the model"
            raise InputError(f"onnxruntime cannot load {what}: {error}") from error
        self.inputs: Mapping[str, Shape] = {
            i.name: tuple(d if isinstance(d, int) else None for d in i.shape)
            for i in self._session.get_inputs()
        }
        self.outputs: Sequence[str] = [o.name for o in self._session.get_outputs()]
        self._types = {i.name: _TYPES.get(i.type) for i in self._session.get_inputs()}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name; floating-point feeds become what the inputs' types are."""
        given = {
            name: as_type(value, wanted)
            if (wanted := self._types.get(name)) is not None and value.dtype.kind == "f"
            else value
            for name, value in feeds.items()
        }
        try:
            values = self._session.run(list(self.outputs), given)
        except Exception as error:
            shapes = ", ".join(f"{k} {list(v.shape)}" for k, v in feeds.items())
            raise InputError(f"onnxruntime failed on {shapes}: {error}") from error
        return dict(zip(self.outputs, values, strict=True))


_TYPES = {
    f"tensor({name})": np.dtype(dtype)
    for name, dtype in {
        **{"float": "float32", "float16": "float16", "double": "float64"},
        **{
            f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
        },
    }.items()
}
"""NumPy's types by onnxruntime's names of them."""


def as_type(values: Array, dtype: np.dtype[Any]) -> Array:
    """Values in a type that may hold fewer: whole numbers are rounded to, and kept in range."""
    if values.dtype == dtype:
        return values
    if dtype.kind in "iu" and values.dtype.kind == "f":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)


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
    from graphopt.pose.spec import detect_pose_spec
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
    from graphopt.runtime.runner import open_bundle

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
