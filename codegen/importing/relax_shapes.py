"""Shapes of Relax expressions."""

from __future__ import annotations

from typing import Any

Expr = Any


Shape = tuple[int, ...]


def shape_of(expr: Expr) -> Shape:
    """The static shape of a Relax tensor."""
    return tuple(int(extent) for extent in expr.ty.shape)
