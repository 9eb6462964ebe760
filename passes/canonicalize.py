"""`canonicalize`: the same network with nothing superfluous in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import onnx_graphsurgeon as gs
from pydantic import Field

from graphopt.ir.graph import label
from graphopt.optimizer.pass_contract import Change, Numerics, Pass, Skip, option
from graphopt.optimizer.simplify.rule import Site, Sweep
from graphopt.optimizer.simplify.rules import RULES, simplifications


@dataclass(frozen=True)
class Canonicalize(Pass[Site]):
    """Remove what computes nothing, and compute now what never changes.

    Rewrite:
        Each node is taken out, or becomes another one, by the first of the rules below that finds
        something; the network is gone through again until none does.

    Numerics:
        Exact: every value is what it was. A quantised one may fall to the next step, where rounding
        decides.

    Why:
        Exporters leave such nodes behind; each is a kernel launch on a phone, and hides patterns
        from the passes that come after.

    When it skips:
        A folded value would be larger than `fold_limit` and than what it is computed from; an
        operator draws random numbers, or restores quantized weights (folding would undo the
        compression); both ends of a no-op are outputs of the network, or input and output; equal
        initializers are read by an operator that may write into them; quantised operands have
        scales along several axes, or channels last.

    Examples:
        canonicalize
            a = Identity(x) b = Relu(a) y = Relu(b)  ->  Relu
    """

    name: ClassVar[str] = "canonicalize"
    numerics: ClassVar[Numerics] = Numerics.EXACT
    repeat: ClassVar[bool] = True
    rules: ClassVar[Mapping[str, str]] = {rule.name: rule.summary for rule in RULES}

    fold_limit: Annotated[int, Field(ge=0)] = option(
        1 << 20, "largest folded constant in bytes, unless it is no larger than its sources"
    )

    def match(self, graph: gs.Graph) -> Iterator[Site | Skip]:
        return simplifications(Sweep(graph, self.fold_limit))

    def rewrite(self, graph: gs.Graph, site: Site) -> Change | Skip:
        change = Change(label(site.node), site.summary)
        site.edit(graph)
        return change
