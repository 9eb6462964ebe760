"""The ways of computing something that a set of templates has, ranked by estimated time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphopt.codegen.kernels.conv.template import Tile
from graphopt.codegen.targets import Target


def ways(templates: Mapping[str, Any], spec: Any, target: Target) -> list[tuple[str, Tile]]:
    """A template's name and a register tile for each way, by estimated time, the shortest first.

    Of two that cost the same, that of the first template comes first.

    Args:
        templates: modules, or objects, with `tiles` and `cost`, by name.
        spec: what is computed, as these take it.
        target: where it will run.
    """
    costs = {
        (name, tile): module.cost(spec, target, tile)
        for name, module in templates.items()
        for tile in module.tiles(spec, target)
    }
    return sorted(costs, key=costs.__getitem__)
