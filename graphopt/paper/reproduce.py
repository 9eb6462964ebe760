"""The plain function behind `graphopt reproduce`: the paper's tables, counted and predicted here.

Accuracy needs networks trained on COCO, and is not reproduced; neither are times on a phone, which
are predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from graphopt.analysis.cost import Cost, cost_of
from graphopt.analysis.latency.device import Device
from graphopt.analysis.latency.predict import network_ms, predict, total_ms
from graphopt.display.numbers import human
from graphopt.display.tables import Grid, Kind
from graphopt.ir.onnx_io import load_model
from graphopt.ir.records import Record
from graphopt.paper.published import (
    ACCURACY,
    COUNTER,
    FIGURE_3,
    INFERRED,
    POST_PROCESSING,
    TABLE_1,
    TABLE_2,
    UNTRAINED,
    Model,
)
from graphopt.zoo.catalogue import build, trained

Tell = Callable[[str], None]


WIDE = 100
"""Columns of a terminal on which table 2 is shown whole."""


@dataclass(frozen=True)
class Reproduction(Record):
    """A table: ours beside the paper's."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, why some figures are what they are, then what to know about it.

        On a narrow terminal, without how far off ours are from the paper's, which stand there.
        """
        hidden = {"why"} | (
            {"off"} if options.max_width < WIDE and len(self.columns) > 8 else set()
        )
        shown = [index for index, name in enumerate(self.columns) if name not in hidden]
        # The device of times is in the notes.
        heads = [self.columns[index].partition(",")[0] for index in shown]
        words = {"changed": Kind.WORDS, "network": Kind.KEY, "model": Kind.KEY}
        grid = Grid([(name, words.get(name, Kind.NUMBER)) for name in heads], title=self.title)
        for row in self.rows:
            grid.add(*(row[index] for index in shown))
        yield grid
        if "why" in self.columns:
            why = self.columns.index("why")
            for row in self.rows:
                if row[why]:
                    yield Text(f"{row[0]}: {row[why]}")
        for note in self.notes:
            yield Text(note, style="dim")


def table_1(device: Device, tell: Tell) -> Reproduction:
    """Table 1: ResNet-50 of several depths."""
    rows = []
    for depth, known in TABLE_1.items():
        tell(f"depth {depth}")
        cost, ms = _priced(f"resnet50-{depth}", device)
        rows.append(
            (
                *(str(depth), human(trained(cost))),
                *_beside(cost.macs / 1e9, known.gflops),
                *(f"{ms:.1f}", f"{known.ap}", f"{known.second}"),
            )
        )
    return Reproduction(
        title="Table 1: depth of the backbone",
        columns=("layers", "params", "GMACs", "paper", "off", f"ms, {device.name}", "AP", "mAP"),
        rows=tuple(rows),
        notes=(
            "The networks are inferred (graphopt/zoo/resnet.py): widths of 72 and 147 layers were "
            "chosen for the paper's GMACs, the heads for those of 24 and 36.",
            "Table 1 gives 16.09 for 72 layers, table 2 gives 16.4 for the same network.",
            *_predicted(device),
            ACCURACY,
        ),
    )


def table_2(device: Device, tell: Tell) -> Reproduction:
    """Table 2: the networks compared."""
    rows, priced = [], {}
    for model in TABLE_2:
        tell(model.title)
        if model.network not in priced:
            priced[model.network] = _priced(model.network, device)
        cost, ms = priced[model.network]
        ours = _beside(trained(cost) / 1e6 / model.pruned, model.params)
        macs = _beside(cost.macs / 1e9, model.gflops)
        if model.pruned > 1:
            macs, ms = ("", str(model.gflops), ""), 0.0
        rows.append(
            (
                *(model.title, *ours, *macs, f"{ms:.1f}" if ms else ""),
                *(str(model.ap), "yes" if model.friendly else "no", _why(model, cost)),
            )
        )
    return Reproduction(
        title="Table 2: networks for the pose of several people",
        columns=(
            *("model", "M params", "paper", "off", "GMACs", "paper", "off"),
            *(f"ms, {device.name}", "AP", "friendly", "why"),
        ),
        rows=tuple(rows),
        notes=(
            "Parameters without normalisations' statistics; the paper's FLOPs are multiply-adds.",
            f"{COUNTER}: it counts transposed convolutions at their output's size, and the "
            "parameters of EfficientNet's blocks twice.",
            "not reproduced: PersonLab's definition gives neither figure at an output stride of 8, "
            "16 or 32, HRNet's 40.8 by its authors' counter too.",
            f"{INFERRED}: the paper does not define the network (graphopt/zoo/resnet.py).",
            f"{UNTRAINED}: which blocks go, and what that costs, depends on training on COCO. Our "
            "parameters are the dense network's, divided as the paper says; `graphopt optimize "
            "--compression` prunes a trained network.",
            *_predicted(device),
            ACCURACY,
        ),
    )


def figure_3(device: Device, networks: Sequence[Path], tell: Tell) -> Reproduction:
    """Figure 3: how fast, beside Lightweight OpenPose.

    Args:
        device: what times are predicted for.
        networks: of the user's, pruned ones for example.
        tell: told what is being done.
    """
    times = {}
    for name in ("lightweight-openpose", "resnet50-72", "efficientnet-pose"):
        tell(name)
        times[name] = _priced(name, device)[1]
    for path in networks:
        tell(str(path))
        times[str(path)] = network_ms(load_model(path), device)
    first = times["lightweight-openpose"]
    rows = []
    for name in dict.fromkeys((*times, *FIGURE_3)):
        ms, paper = times.get(name), FIGURE_3.get(name)
        ours = ("", "") if ms is None else (f"{ms:.1f}", f"{first / ms:.2f}")
        rows.append((name, *ours, "" if paper is None else f"{paper:.2f}"))
    return Reproduction(
        title="Figure 3: times as fast as Lightweight OpenPose",
        columns=("network", f"ms, {device.name}", "times as fast", "paper"),
        rows=tuple(rows),
        notes=(
            "The paper measured on a Galaxy S10 with a compiler of its own, and does not say which "
            "network is the best. Predictions rest on published times of other engines' kernels.",
            "Networks of yours, pruned ones for example, stand here too with --network. What "
            "pruning costs in accuracy is measured on a trained network and annotated photos: "
            "python tests/benchmarks/pruning_curve.py.",
            *_predicted(device),
        ),
    )


def post_processing(rounds: int, tell: Tell) -> Reproduction:
    """Section 2.1's choice of a way from maps to people: measured here."""
    from graphopt.bench.postprocessing import compare_post_processing

    report = compare_post_processing(rounds=rounds, progress=tell)
    rows = []
    for name, way in report.ways.items():
        known = next((v for k, v in POST_PROCESSING.items() if name.startswith(k)), ("", 0.0))
        paper = f"{1e3 * known[1]:g}" if known[1] else ""
        rows.append((name, *(f"{ms:.2f}" for ms in way.ms), known[0], paper))
    return Reproduction(
        title="Section 2.1: from maps to people, milliseconds",
        columns=("way", *(f"people: {n}" for n in report.people), "the paper's", "paper, ms"),
        rows=tuple(rows),
        notes=(
            "The paper says neither how many people nor which implementation; the ways here are "
            "grouping alone. The authors' own code does more by default: it enlarges maps to the "
            "photo and flips it for associative embedding, and matches heat maps for regression.",
            *(f"{name}: {reason}" for name, reason in report.unavailable.items()),
        ),
    )


def counted_by_authors(cost: Cost) -> tuple[int, int]:
    """Parameters and MACs as EfficientHRNet's and HigherHRNet's authors count, see `COUNTER`."""
    twice = Cost.of(layer for layer in cost.layers if "/block" in layer.name)
    transposed = sum(layer.macs or 0 for layer in cost.layers if layer.op == "ConvTranspose")
    # Their output is twice as high and twice as wide.
    return trained(cost) + trained(twice), cost.macs + 3 * transposed


def _why(model: Model, cost: Cost) -> str:
    if model.reason != COUNTER:
        return model.reason
    params, macs = counted_by_authors(cost)
    return f"{COUNTER}: {params / 1e6:.2f} M, {macs / 1e9:.2f} G"


def _priced(name: str, device: Device) -> tuple[Cost, float]:
    """A network of the catalogue: its cost and predicted milliseconds."""
    graph = build(name, seed=None)
    return cost_of(graph), total_ms(predict(graph, device))


def _beside(ours: float, paper: float) -> tuple[str, str, str]:
    return f"{ours:.2f}", f"{paper}", f"{ours / paper - 1:+.1%}"


def _predicted(device: Device) -> Iterator[str]:
    yield f"Times are predicted, for {device.description}."
