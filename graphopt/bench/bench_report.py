"""What `graphopt bench` tells: records of what was measured, and their tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.text import Text

from graphopt.bench.options import ContestMode
from graphopt.bench.roofline import Peak
from graphopt.bench.stage_timing import Budget
from graphopt.display.numbers import named_sizes
from graphopt.display.tables import Grid, Kind
from graphopt.ir.records import Record
from graphopt.runtime.runner import LayerTime

SUSPICIOUS = 1e-3
"""A difference, relative to an output's range, that float32 rounding does not explain."""

UNLIKE = 0.9
"""A similarity of people (OKS) below which lower precision has cost too much."""


@dataclass(frozen=True)
class Timing(Record):
    """Milliseconds for one run of the network: the median over rounds, and how far they spread."""

    median_ms: float
    p10_ms: float
    p90_ms: float

    @classmethod
    def of(cls, milliseconds: NDArray[np.float64]) -> Timing:
        """The summary of one time a round."""
        low, middle, high = np.percentile(milliseconds, (10, 50, 90)).tolist()
        return cls(median_ms=middle, p10_ms=low, p90_ms=high)


@dataclass(frozen=True)
class LayerTiming(Record):
    """One layer of graphopt's: what it does, how long it takes, how near that is to the peak."""

    layer: str
    """The ONNX node."""
    kernel: str
    ms: float
    share: float
    """Its part of the time of all layers."""
    macs: int
    gflops: float
    """1e9 operations a second; a multiply-add is two."""
    of_peak: float
    """`gflops` / the measured peak. What needs more bytes than operations cannot come near 1."""
    bytes: int
    """Size of the tensors that it reads and writes, weights included."""
    gbytes: float
    """1e9 bytes a second. Above the peak, they came from a cache."""

    @classmethod
    def of(cls, times: Sequence[LayerTime], peak: Peak) -> tuple[LayerTiming, ...]:
        """All layers of a network, from their times."""
        total = sum(layer.ms for layer in times)
        layers = []
        for layer in times:
            # 1e6 operations in a millisecond are 1e9 a second.
            gflops = 2e-6 * layer.macs / layer.ms
            layers.append(
                cls(
                    **vars(layer),
                    share=layer.ms / total,
                    gflops=gflops,
                    of_peak=gflops / peak.gflops,
                    gbytes=1e-6 * layer.bytes / layer.ms,
                )
            )
        return tuple(layers)


@dataclass(frozen=True, kw_only=True)
class BenchReport(Record):
    """What `graphopt bench` measured; its JSON form is stable."""

    engines: dict[str, Timing]
    ratios: dict[str, float]
    """graphopt's median time / each engine's: below 1, graphopt is faster."""
    ratio_p10_p90: dict[str, tuple[float, float]]
    """How far the ratio spreads when it is taken within each round."""
    difference: dict[str, float]
    """The largest difference from onnxruntime's outputs on the same file, relative to the output's
    range."""
    files: dict[str, str]
    """The network that each engine ran; graphopt's bundle was compiled from its."""
    contest: ContestMode = "float32"
    """Whether every engine computed in what it is fastest in, or in float32."""
    precision: dict[str, str] = field(default_factory=dict)
    """What each engine computed in: `float32`, `bfloat16`, `int8` …"""
    oks: dict[str, float] = field(default_factory=dict)
    """How alike each engine's people are to those of the network before it was rewritten, by
    onnxruntime: see `PoseChange.oks`. Empty without photos."""
    photos: int = 0
    """That people were looked for in."""
    notes: tuple[str, ...] = ()
    """What of the best that engines have was left out, a sentence each."""
    remark: str = ""
    """What to know where the network was rewritten; else empty."""
    unavailable: dict[str, str]
    """Engines that were asked for and did not run, and why."""
    threads: int
    rounds: int
    model: str
    input: dict[str, tuple[int, ...]]
    compiled_here: bool
    """True when the model was an ONNX file and graphopt's bundle was made for this measurement."""
    memory: dict[str, int]
    """The most bytes that a process holds which loads and runs nothing but that engine."""
    bundle_bytes: int
    """Size of all files of graphopt's bundle."""
    layers: tuple[LayerTiming, ...] | None = None
    peak: Peak | None = None
    """Measured with the layers, on as many threads."""
    budget: Budget | None = None

    def wrong(self, name: str) -> bool:
        """Whether an engine's answers are too far from what they should be.

        In float32 by its outputs, in less by its people, where they are known.
        """
        if self.precision.get(name, "float32") == "float32":
            return self.difference[name] > SUSPICIOUS
        return self.oks.get(name, 1.0) < UNLIKE or not np.isfinite(self.difference[name])

    def __rich__(self) -> RenderableType:
        """Engine by engine, then who is missing, then layer by layer."""
        return Group(*self._parts())

    def _parts(self) -> Iterator[RenderableType]:
        numbers = ("ms", "graphopt / it", "p10 … p90", "off by", "OKS")
        texts = {"engine": Kind.KEY, "network": Kind.NAME, "precision": Kind.WORDS}
        columns = texts | dict.fromkeys(numbers, Kind.NUMBER)
        table = Grid(columns, title=self.model)
        for name, timing in sorted(self.engines.items(), key=lambda item: item[1].median_ms):
            off, style = self.difference[name], "bold red" if self.wrong(name) else ""
            low, high = self.ratio_p10_p90.get(name, (None, None))
            table.add(
                name,
                Path(self.files[name]).name,
                self.precision.get(name, "float32"),
                f"{timing.median_ms:.2f}",
                f"{self.ratios[name]:.2f}" if name in self.ratios else "",
                f"{low:.2f} … {high:.2f}" if low is not None else "",
                Text(f"{off:.1e}", style=style),
                Text(f"{self.oks[name]:.3f}" if name in self.oks else "-", style=style),
            )
        yield table
        if self.remark:
            yield Text(self.remark, style="yellow")
        for name, reason in self.unavailable.items():
            yield Text(f"{name} is missing: {reason}", style="yellow")
        for note in self.notes:
            yield Text(note, style="yellow")
        at = named_sizes(self.input)
        yield Text(
            f"{at}, {self.threads} threads, medians of {self.rounds} rounds, and how far ratios "
            "spread within rounds; off by: the difference from "
            f"onnxruntime's outputs on the same network, relative to their range. {self._held()}",
            style="dim",
        )
        if self.compiled_here:
            yield Text("graphopt: compiled for this measurement, target cpu.", style="dim")
        held = ", ".join(f"{name} {bytes / 1e6:.0f} MB" for name, bytes in self.memory.items())
        yield Text(
            f"memory of a process that loads and runs it, at most: {held}; "
            f"graphopt's bundle: {self.bundle_bytes / 1e6:.1f} MB.",
            style="dim",
        )
        if self.budget is not None:
            yield from _budget_parts(self.budget)
        if self.layers is not None and self.peak is not None:
            yield _layer_table(self.layers)
            yield Text(
                f"peak: {self.peak.gflops:.0f} GFLOP/s and {self.peak.gbytes:.1f} GB/s, measured "
                f"here on {self.threads} threads: multiply-adds on registers alone, and a copy in "
                "memory. More GB/s than that come from caches.",
                style="dim",
            )

    def _held(self) -> str:
        """What held for all engines, and how people were compared."""
        told = "Every engine in float32."
        if self.contest == "best":
            told = "Every engine in its best precision (--contest float32: all in that)."
        if self.oks:
            return f"{told} OKS: its people beside the float32 original's, in {self.photos} photos."
        return f"{told} OKS: {'nobody was found' if self.photos else 'no photos (--images DIR)'}."


def _budget_parts(budget: Budget) -> Iterator[RenderableType]:
    columns = {"stage": Kind.KEY, "ms": Kind.NUMBER, "share": Kind.NUMBER}
    table = Grid(columns, title="graphopt, from photo to picture")
    total = sum(budget.ms.values())
    for stage, ms in budget.ms.items():
        table.add(stage, f"{ms:.2f}", f"{ms / total:.1%}")
    yield table
    photo = f"{budget.photo}, {' x '.join(map(str, budget.size))} pixels, people: {budget.people}"
    yield Text(photo, style="dim")


def _layer_table(layers: Sequence[LayerTiming]) -> Grid:
    numbers = ("ms", "share", "GFLOP/s", "of peak", "GB/s")
    columns = {"layer": Kind.NAME, "kernel": Kind.NAME, **dict.fromkeys(numbers, Kind.NUMBER)}
    table = Grid(columns, title="graphopt, layer by layer")
    for layer in layers:
        table.add(
            layer.layer,
            layer.kernel,
            f"{layer.ms:.3f}",
            f"{layer.share:.1%}",
            *((f"{layer.gflops:.1f}", f"{layer.of_peak:.0%}") if layer.macs else ("", "")),
            f"{layer.gbytes:.1f}",
        )
    return table
