"""Device profiles: what a kernel of each class costs on a device, each figure with its source."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, ValidationError

from graphopt.errors import InputError, UsageError
from graphopt.ir.records import Record, complaint

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


Precision: TypeAlias = Literal["float32", "bfloat16", "float16", "int8"]
"""What a layer multiplies in."""


class LayerClass(str, Enum):
    """Kernels that run at one rate."""

    WINOGRAD = "winograd"
    """Dense 3x3, stride 1, dilation 1, with enough channels for Winograd's algorithm."""
    DENSE = "dense"
    """Any other dense convolution larger than 1x1."""
    DILATED = "dilated"
    """Dense, with gaps between the taps."""
    POINTWISE = "pointwise"
    """1x1 convolutions and matrix products."""
    DEPTHWISE = "depthwise"
    """One filter a channel, up to 3x3."""
    DEPTHWISE_LARGE = "depthwise_large"
    """The same, larger; without a rate, as `depthwise`."""
    EXPONENTIAL = "exponential"
    """Exponentials, logarithms and the like that a convolution's kernel does too."""
    EXPONENTIAL_ALONE = "exponential_alone"
    """The same in other kernels; without a rate, as `exponential`."""
    REDUCTION = "reduction"
    """Pooling, and sums over a map, counted in elements read; without a rate, fast as memory."""
    RESIZE = "resize"
    """Resampling, counted in elements read, again and again; without a rate, fast as memory."""
    BANDWIDTH = "bandwidth"
    """Everything else, counted in bytes; without a rate, fast as memory."""


_FALLBACK = {
    LayerClass.DEPTHWISE_LARGE: LayerClass.DEPTHWISE,
    LayerClass.EXPONENTIAL_ALONE: LayerClass.EXPONENTIAL,
}

_REQUIRED = frozenset(
    {
        LayerClass.DENSE,
        LayerClass.DILATED,
        LayerClass.POINTWISE,
        LayerClass.DEPTHWISE,
        LayerClass.EXPONENTIAL,
    }
)


@dataclass(frozen=True)
class Figure(Record):
    """A number and where it comes from."""

    value: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    source: Annotated[str, Field(min_length=1)]


_NOT_SKIPPED = Figure(value=1e9, source="kernels of bfloat16 multiply zeros, too")


@dataclass(frozen=True, kw_only=True)
class Device(Record):
    """A device's profile."""

    name: str
    """As `--device` takes it: the file's name."""
    description: str
    unknown: tuple[str, ...] = ()
    """What nobody has measured, and so what predictions should not be trusted with."""
    lanes: Annotated[int, Field(ge=1)] = 1
    """Channels that the layout keeps side by side; a convolution computes whole groups of them."""
    element_bytes: Annotated[int, Field(ge=1)] = 4
    """Bytes of an activation or weight: 4 for float32, 2 for half precision."""
    peak: Figure | None = None
    """GFLOP/s that the hardware could do at best, where known; predictions do not use it."""
    rates: Mapping[LayerClass, Figure]
    """Direct arithmetic: GFLOP/s, two to a multiply-add (so Winograd's may exceed the peak);
    exponentials, `reduction` and `resize`: 1e9 elements a second;
    `bandwidth`: GB/s of kernels that only move data, where they are slower than others."""
    precisions: Mapping[Precision, Mapping[LayerClass, Figure]] = field(default_factory=dict)
    """Rates of layers that multiply in less than float32, which `rates` are of; those may be lower,
    too. A class that is missing runs as in float32; of a precision that is, nothing is known."""
    winograd_channels: Figure | None = None
    """Fewest channels, in and out, that the engine takes Winograd's algorithm for; None: it has no
    such kernels."""
    bandwidth: Figure
    """GB/s between memory and kernels."""
    launch: Figure
    """Microseconds that each kernel costs besides."""
    sparse_overhead: Figure | None = None
    """A pruned convolution that keeps the part k of its weights takes k * (1 + overhead) of the
    time of the dense kernel that multiplies directly; None: not known, and taken as 0."""

    def __post_init__(self) -> None:
        """Refuse a profile that lacks a figure."""
        if missing := sorted(kind.value for kind in _REQUIRED - set(self.rates)):
            raise ValueError(f"rates: {', '.join(missing)} missing")
        if "float32" in self.precisions:
            raise ValueError("precisions.float32: its rates are `rates`")
        if (LayerClass.WINOGRAD in self.rates) != (self.winograd_channels is not None):
            raise ValueError(
                "rates.winograd and winograd_channels: one is of no use without the other"
            )

    def rate(self, kind: LayerClass, precision: Precision = "float32") -> float | None:
        """The rate of a class, or of the one that stands in for it; None: as fast as memory."""
        own = self.precisions.get(precision, {})
        stand_in = _FALLBACK.get(kind, kind)
        figure = own.get(kind) or own.get(stand_in)
        figure = figure or self.rates.get(kind) or self.rates.get(stand_in)
        return None if figure is None else figure.value

    def computing_in(self, precision: Precision) -> Device | None:
        """The same device, whose every layer multiplies in a precision; None: nothing is known.

        Winograd's algorithm is for those precisions alone that have a rate for it. Halves are
        stored as such.
        """
        if precision == "float32":
            return self
        own = self.precisions.get(precision)
        if own is None or precision == "int8":  # what is in eight bits, the network says
            return None
        rates = {**self.rates, **own}
        fewest = self.winograd_channels if LayerClass.WINOGRAD in own else None
        if fewest is None:
            rates.pop(LayerClass.WINOGRAD, None)
        sparse = _NOT_SKIPPED if precision == "bfloat16" else self.sparse_overhead
        return replace(
            self,
            rates=rates,
            winograd_channels=fewest,
            element_bytes=2,
            sparse_overhead=sparse,
        )


_FOLDER = resources.files("graphopt.analysis.latency") / "devices"


def devices() -> list[str]:
    """The names of the profiles that come with graphopt."""
    return sorted(
        file.name.removesuffix(".toml") for file in _FOLDER.iterdir() if file.name.endswith(".toml")
    )


def load_device(name: str | Path) -> Device:
    """A device's profile by its built-in name, or from a TOML file.

    Raises:
        InputError: no such profile or file, or a file without a valid profile; the message says
            the line (where the TOML is broken) or the field (where its content is).
    """
    hint = (
        f"built in: {', '.join(devices())}; "
        "`graphopt profile -o FILE.toml` measures this machine's own"
    )
    path = Path(name)
    try:
        if name in devices():
            text = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
        else:
            text = path.read_text(encoding="utf-8")
        return Device.from_plain({**tomllib.loads(text), "name": path.stem})
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file", hint=hint) from error
    except OSError as error:
        reason = error.strerror or error
        kind = InputError if path.exists() else UsageError
        raise kind(f"no device {str(name)!r}: {reason}", hint=hint) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}", hint=hint) from error
    except ValidationError as error:
        finding = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in finding["loc"] if part != "[key]")
        what = complaint(error)
        reason = f"{where}: {what}" if where else what
        raise InputError(f"{path} is no device profile: {reason}", hint=hint) from error
