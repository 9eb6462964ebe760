"""Something that turns named input arrays into named output arrays: an engine.

`run`, `eval`, `bench` and the verification of passes know networks only through this contract, so
that a compiled bundle, onnxruntime and any competitor are judged by the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.arrays import Array, Shape


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
        keep_floats: weights that are float stay float; onnxruntime rounds those of convolutions
            between QuantizeLinear and DequantizeLinear, with one step for all output channels.

    Raises:
        InputError: when onnxruntime refuses the model; the message is onnxruntime's reason.
    """

    name = "onnxruntime"

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int = 0,
        optimize: bool = True,
        keep_floats: bool = False,
    ) -> None:
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
                disabled_optimizers=["WeightBiasQuantization"] if keep_floats else None,
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
