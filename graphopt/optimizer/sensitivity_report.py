"""Sensitivities for people: tables, what they say about the paper's claim, and a drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from rich.console import Group, RenderableType
from rich.text import Text

from graphopt.display.numbers import human
from graphopt.display.plots import COLORS, Axis, Plot
from graphopt.display.tables import Grid, Kind
from graphopt.optimizer.sensitivity_file import LayerLosses, Loss, Sensitivity
from graphopt.sparsity.function_blocks import Role


@dataclass(frozen=True)
class Shown:
    """Sensitivities as tables."""

    measured: Sensitivity

    def __rich__(self) -> RenderableType:
        """Layer by layer, then the function blocks, then what that says."""
        return Group(*self._parts())

    def _parts(self) -> Iterator[RenderableType]:
        found = self.measured
        yield from (Text(remark, style="yellow") for remark in found.remarks)
        yield _table("layer", found.layers, [layer.function_block for layer in found.layers])
        yield _table("function block", found.function_blocks)
        yield Text(
            f"{found.block} blocks, the rest of each layer fitted again; judged on {found.images} "
            f"photos with {found.people} people. Error of the maps relative to their deviation, "
            "then mean shift of key points in pixels of the input, for each part of the blocks "
            "that goes.",
            style="dim",
        )
        yield from map(Text, findings(found))


def _table(kind: str, rows: Sequence[LayerLosses], blocks: Sequence[str] = ()) -> Grid:
    ratios = [f"{100 * loss.ratio:g}%" for loss in rows[0].losses]
    columns = {kind: Kind.NAME, **({"function block": Kind.NAME} if blocks else {})}
    columns |= dict.fromkeys(("params", "MACs", *ratios), Kind.NUMBER)
    table = Grid(columns)
    for index, row in enumerate(rows):
        table.add(
            row.name,
            *blocks[index : index + 1],
            human(row.params),
            human(row.macs),
            *(f"{loss.error:.3f} {loss.shift:5.2f}" for loss in row.losses),
        )
    return table


_CLAIMS = (
    ("the backbone bears pruning better than the PAF branch", Role.BACKBONE, Role.PAF),
    ("the heat-map branch bears pruning better than the PAF branch", Role.HEAT, Role.PAF),
)
"""The paper's (section 2.2): which part is more tolerant than which."""


def findings(measured: Sensitivity) -> list[str]:
    """What the paper claims, held against what was measured, a line each.

    Of several stages the most sensitive one counts. Parts of a network differ in size, and the same
    part of a larger one is more to lose: a claim is judged by the loss of maps and of poses at
    the same ratio, and by the squared error for each parameter that went.
    """
    lines = []
    for claim, tolerant, sensitive in _CLAIMS:
        verdicts = []
        for what, importance in _IMPORTANCES:
            pairs = list(
                zip(*(_worst(measured, r, importance) for r in (tolerant, sensitive)), strict=False)
            )
            if not pairs:
                continue
            holds = sum(a < b for a, b in pairs)
            numbers = ", ".join(f"{a:.2g} and {b:.2g}" for a, b in pairs)
            verdicts.append(f"{what} in {holds} of {len(pairs)} ratios ({numbers})")
        said = "; ".join(verdicts) or "cannot be told, one of the two has no layer to prune"
        lines.append(f"{claim}: {said}")
    return lines


_IMPORTANCES: Sequence[tuple[str, Callable[[LayerLosses, Loss], float]]] = (
    ("by the maps' error", lambda _, loss: loss.error),
    ("by 1 - OKS of the poses", lambda _, loss: 1 - loss.oks),
    (
        "by squared error a million parameters",
        lambda block, loss: loss.error**2 / (loss.ratio * block.params) * 1e6,
    ),
)


def _worst(
    measured: Sensitivity, role: Role, importance: Callable[[LayerLosses, Loss], float]
) -> list[float]:
    """What pruning the role's blocks costs, by ratio, the most sensitive of its stages."""
    blocks = [b for b in measured.function_blocks if b.name.endswith(role.value)]
    columns = zip(*([importance(b, loss) for loss in b.losses] for b in blocks), strict=True)
    return [max(column) for column in columns]


def drawing(measured: Sensitivity) -> str:
    """The function blocks' errors over the part that goes, as SVG."""
    blocks = measured.function_blocks
    top = max(loss.error for block in blocks for loss in block.losses) or 1.0
    quarters = (0.0, 0.25, 0.5, 0.75, 1.0)
    plot = Plot(
        Axis("part of its blocks that goes", quarters, "{:.0%}".format),
        Axis(
            "error of the maps, one function block pruned",
            [quarter * top for quarter in quarters],
            "{:.2f}".format,
        ),
    )
    for block, color in zip(blocks, cycle(COLORS)):
        points = [(0.0, 0.0), *((loss.ratio, loss.error) for loss in block.losses)]
        plot.line(points, color, f"{block.name} ({human(block.params)})")
    return str(plot)
