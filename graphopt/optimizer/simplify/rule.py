"""What a rule finds: a node, what is done about it, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import onnx_graphsurgeon as gs

Edit: TypeAlias = Callable[[gs.Graph], None]
"""Makes a change that is known to be possible."""


@dataclass(frozen=True)
class Site:
    """A node, what is done about it, and how."""

    node: gs.Node
    summary: str
    edit: Edit
