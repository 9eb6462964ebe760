"""How long each layer of a bundle takes on a phone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Group, RenderableType
from rich.text import Text

from graphopt.devices.phone import on_phone
from graphopt.display.tables import Grid, Kind
from graphopt.ir.records import Record
from graphopt.pose.images import read_photo
from graphopt.pose.preprocess import extents
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.synthetic_images import natural_photo


@dataclass(frozen=True)
class PhoneLayer(Record):
    """One layer on a phone."""

    stage: str
    """prepare, input, network or decode."""
    layer: str
    """The ONNX node."""
    kernel: str
    ms: float
    """The median, with every launch waited for."""
    share: float
    """Its part of the time of all layers."""
    macs: int
    gmacs: float
    """1e9 multiply-adds a second."""


@dataclass(frozen=True)
class PhoneReport(Record):
    """What `graphopt bench --device adb` measured; its JSON form is stable."""

    model: str
    phone: str
    """Its serial number."""
    device: str
    """What the bundle ran on there: `cpu`, or the OpenCL device's name."""
    photo: str | None
    """None: a made-up one of the input's size."""
    width: int
    height: int
    people: int
    runs: int
    """How many frames the median is of."""
    load_ms: float
    first_ms: float
    """The first frame's, from pixels to people."""
    median_ms: float
    """Milliseconds of later ones, the median."""
    layers: tuple[PhoneLayer, ...]

    @classmethod
    def of(
        cls, answer: Mapping[str, Any], *, model: Path, phone: str, photo: Path | None, runs: int
    ) -> PhoneReport:
        """The report, from what graphopt-run said."""
        total = sum(layer["ms"] for layer in answer["layers"])
        layers = [
            PhoneLayer(
                **layer,
                share=layer["ms"] / total,
                # 1e6 in a millisecond are 1e9 a second.
                gmacs=1e-6 * layer["macs"] / max(layer["ms"], 1e-6),
            )
            for layer in answer["layers"]
        ]
        copied = ("device", "width", "height", "load_ms", "first_ms", "median_ms")
        return cls(
            **{key: answer[key] for key in copied},
            model=str(model),
            phone=phone,
            photo=str(photo) if photo else None,
            people=len(answer["people"]),
            runs=runs,
            layers=tuple(layers),
        )

    def __rich__(self) -> RenderableType:
        """Layer by layer, then frames."""
        columns = {"stage": Kind.WORDS, "layer": Kind.NAME, "kernel": Kind.NAME}
        columns |= dict.fromkeys(("ms", "share", "GMAC/s"), Kind.NUMBER)
        table = Grid(columns, title=f"{self.model} on {self.phone}, {self.device}")
        for layer in self.layers:
            table.add(
                layer.stage,
                layer.layer,
                layer.kernel,
                f"{layer.ms:.3f}",
                f"{layer.share:.1%}",
                f"{layer.gmacs:.1f}" if layer.macs else "",
            )
        frames = (
            f"load {self.load_ms:.0f} ms, first frame {self.first_ms:.1f} ms, then "
            f"{self.median_ms:.1f} ms (median of {self.runs}), from pixels to people"
        )
        photo = f"{self.photo or 'a made-up photo'}, {self.width} x {self.height} pixels"
        return Group(
            table,
            Text(frames, style="bold"),
            Text(f"{photo}, people: {self.people}; layers are waited for one by one", style="dim"),
        )


def bench_on_phone(
    path: Path,
    device: str,
    *,
    runner: Path | None = None,
    photo: Path | None = None,
    threads: int = 0,
    runs: int = 20,
    progress: Callable[[str], None] = lambda _: None,
) -> PhoneReport:
    """Measure a bundle on a phone.

    Args:
        path: the bundle.
        device: `adb`, or `adb:SERIAL`.
        runner: see `on_phone`.
        photo: what it looks at; without one, a made-up photo.
        threads: CPU threads of a cpu bundle; 0 takes every core.
        runs: how many frames after the first, and runs of each layer (10 at least).
        progress: told what is being done.

    Raises:
        GraphoptError: the phone cannot run it, or cannot be reached.
    """
    bundle = read_bundle(path)
    if photo is None:
        height, width = extents(next(iter(bundle.manifest.inputs.values())))
        assert height is not None  # a bundle's sizes are fixed
        assert width is not None
        pixels = natural_photo(height, width).astype(np.uint8)
        picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    else:
        picture = read_photo(photo)
    options = ["--threads", str(threads), "--repeat", str(runs), "--profile"]
    with on_phone(bundle, device, runner=runner, options=options, progress=progress) as session:
        progress("measuring")
        answer = session.look(picture)
    serial = session.phone.serial
    return PhoneReport.of(answer, model=path, phone=serial, photo=photo, runs=runs)
