"""Where everything from photo to people runs in a bundle: `graphopt inspect BUNDLE`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from graphopt.display.numbers import human, named_sizes
from graphopt.display.tables import Grid, Kind
from graphopt.ir.records import Record
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.levels import Level
from graphopt.runtime.plan import Manifest, Place, Stage
from graphopt.runtime.precision import bundle_precision

STAGES: tuple[Stage, ...] = ("prepare", "input", "network", "decode")


@dataclass(frozen=True)
class PlacedStep(Record):
    """A kernel's launch, or a stage that has none.

    `layer` is the ONNX node, or the kernel's own name where it computes none.
    """

    stage: Stage
    layer: str
    kernel: str
    macs: int
    runs_on: Place


@dataclass(frozen=True)
class PlacedLevel(Record):
    """Kernels for one kind of CPU: what it must have, and the bytes that they and their data take.

    `shared_bytes` are those among them that other levels use as well.
    """

    name: str
    features: tuple[str, ...]
    bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class DevicePlacement(Record):
    """A bundle's steps in order."""

    bundle: str
    target: str
    host: str
    """The machine that CPU kernels were compiled for; "" is any."""
    inputs: dict[str, tuple[int, ...]]
    steps: tuple[PlacedStep, ...]
    """Of the best level, where there are several."""
    precision: str = "float32"
    """What the network computes in (`runtime.precision`)."""
    levels: tuple[PlacedLevel, ...] = ()
    """Of a bundle for several kinds of CPUs, the best first."""

    def __rich__(self) -> RenderableType:
        """Steps, and how many run where."""
        table = Grid(
            {
                "stage": Kind.WORDS,
                "layer": Kind.NAME,
                "kernel": Kind.NAME,
                "MACs": Kind.NUMBER,
                "runs on": Kind.WORDS,
            },
            title=self.bundle,
        )
        for step in self.steps:
            macs = human(step.macs) if step.macs else ""
            table.add(step.stage, step.layer, step.kernel, macs, step.runs_on)
        where = [step.runs_on for step in self.steps]
        counts = ", ".join(f"{where.count(place)} on {place}" for place in sorted(set(where)))
        host = f" of {self.host}" if self.host else ""
        target = f"target {self.target}{host}, {self.precision}, input {named_sizes(self.inputs)}"
        told = [Text(f"{target}; steps: {counts}")]
        if self.levels:
            levels = Grid(
                {"level": Kind.NAME, "needs": Kind.WORDS, "MB": Kind.NUMBER, "shared": Kind.NUMBER}
            )
            for level in self.levels:
                sizes = (f"{count / 1e6:.2f}" for count in (level.bytes, level.shared_bytes))
                levels.add(level.name, ", ".join(level.features), *sizes)
            told.append(Text(f"steps and kernels are those of {self.levels[0].name}"))
            return Group(table, *told, levels)
        return Group(table, *told)


def placement(path: Path) -> DevicePlacement:
    """Where a bundle's steps run.

    Raises:
        InputError: no bundle, or a damaged one.
    """
    bundle = read_bundle(path)
    target, runs = bundle.manifest.target, bundle.manifest.runs
    steps: list[PlacedStep] = []
    for stage in STAGES:
        if runs.get(stage) == "host":
            steps.append(PlacedStep(stage=stage, layer="", kernel="", macs=0, runs_on="host"))
        layer = ""
        for launch in (launch for launch in bundle.plan.launches if launch.stage == stage):
            # Launches without a layer belong to the one before.
            layer = launch.layer or layer or launch.kernel
            steps.append(
                PlacedStep(
                    stage=stage,
                    layer=layer,
                    kernel=launch.kernel,
                    macs=launch.macs,
                    runs_on=target.kind,
                )
            )
    return DevicePlacement(
        bundle=str(path),
        target=target.name,
        host=target.host,
        inputs=bundle.manifest.inputs,
        steps=tuple(steps),
        precision=bundle_precision(bundle),
        levels=_levels(bundle.manifest),
    )


def _levels(manifest: Manifest) -> tuple[PlacedLevel, ...]:
    """A bundle's levels, and what they take."""
    users = Counter(name for level in manifest.levels for name in level.files)

    def size(level: Level, least: int) -> int:
        return sum(manifest.files[name].bytes for name in level.files if users[name] >= least)

    return tuple(
        PlacedLevel(level.name, level.features, size(level, 1), size(level, 2))
        for level in manifest.levels
    )
