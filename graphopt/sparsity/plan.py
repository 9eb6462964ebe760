"""The file that says how much of each layer is pruned: written by people or by the allocation.

{"block": "8x4", "layers": {"conv5_1/sep": 0.8, "conv5_2/sep": 0.75}}
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import onnx_graphsurgeon as gs
from pydantic import Field, ValidationError

from graphopt.errors import InputError
from graphopt.ir.block_structure import BlockName
from graphopt.ir.files import replacing
from graphopt.ir.graph import is_standard, label
from graphopt.ir.records import Record, complaint


@dataclass(frozen=True, kw_only=True)
class PruningPlan(Record):
    """How much of each layer goes.

    Args:
        block: the extent of a block.
        layers: the part of a layer's blocks that goes, from 0 to less than 1, by the layer's name
            in reports (`graphopt.ir.graph.label`); layers that are not named stay as they are.
    """

    block: BlockName = "8x4"
    layers: dict[str, Annotated[float, Field(ge=0, lt=1)]]


def read_plan(path: Path) -> PruningPlan:
    """Read a plan.

    Raises:
        InputError: it cannot be read or is none; says what is wrong in it, and where.
    """
    try:
        return PruningPlan.from_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read the pruning plan {path}: {error.strerror}") from error
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        reason = f"{where}: {complaint(error)}" if where else complaint(error)
        raise InputError(
            f"{path} is no pruning plan: {reason}",
            hint='write {"block": "8x4", "layers": {"NAME OF A LAYER": 0.8}}',
        ) from error


def write_plan(plan: PruningPlan, path: Path) -> None:
    """Write a plan, whole or not at all."""
    with replacing(path) as fresh:
        fresh.write_text(json.dumps(plan.to_plain(), indent=1) + "\n")


def plan_for(graph: gs.Graph, path: str) -> PruningPlan:
    """Read a plan for this network.

    Raises:
        InputError: see `read_plan`; or it names what the network has not: it is another network's.
    """
    plan = read_plan(Path(path))
    names = [label(node) for node in graph.nodes if is_standard(node, "Conv")]
    for name in plan.layers:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=3)
            raise InputError(
                f"{path} names the convolution {name!r}, which the network has not",
                hint=f"did you mean {' or '.join(close)}?" if close else "see `graphopt inspect`",
            )
    return plan
