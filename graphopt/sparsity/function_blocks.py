"""Which part of a pose network a convolution belongs to, found from the graph alone.

The paper prunes the parts of a network differently (section 2.2: backbone, heat-map branch, PAF
branch). Networks of the OpenPose family share one form: features, then stages that each predict
heat maps and part affinity fields (PAFs), every stage but the first from the features joined with
the maps of the stage before (Cao et al., "OpenPose", TPAMI 2019, figure 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from operator import and_

import onnx_graphsurgeon as gs

from graphopt.ir.convolution import CONV_OPS, Convolution
from graphopt.ir.graph import is_standard, label, producer_of, reads_of
from graphopt.ir.identity import IdentitySet
from graphopt.pose.spec import PoseSpec


class Role(str, Enum):
    """What a part of a network is for."""

    BACKBONE = "backbone"
    """From the photo to features."""
    CONTEXT = "context"
    """The narrower layers at its end that make features fit for poses (Osokin, "Real-time 2D
    Multi-Person Pose Estimation on CPU", 2018, section 4.2: `cpm`)."""
    TRUNK = "trunk"
    """What the branches of one stage share."""
    HEAT = "heat maps"
    PAF = "PAFs"


@dataclass(frozen=True)
class FunctionBlock:
    """A part of a network, as the paper tells them apart."""

    role: Role
    stage: int = 0
    """The stage that it belongs to, the first is 1; 0 for what comes before all of them."""

    def __str__(self) -> str:
        return f"stage {self.stage} {self.role.value}" if self.stage else self.role.value


@dataclass(frozen=True)
class FunctionBlocks:
    """What each convolution of a network is for."""

    of: Mapping[str, FunctionBlock]
    """By the node's label; convolutions that no map depends on are missing."""
    predictors: frozenset[str]
    """Those whose outputs are the maps of a stage."""


def function_blocks(graph: gs.Graph, spec: PoseSpec) -> FunctionBlocks:
    """Find the part of a network that each convolution belongs to.

    A convolution belongs to the first stage whose maps depend on it: to the branch of the only maps
    that do, else to the stage's trunk. What later stages read too, beside maps, are the features:
    the backbone, whose end from behind its widest layer on is the context if everything passes
    through there. Without later stages all that the branches of the only one share counts as
    features. Where a stage has maps of one kind only, the layer that makes them is the branch.

    Args:
        graph: the network, its nodes in order.
        spec: where the final maps are.
    """
    found: dict[str, FunctionBlock] = {}
    before: IdentitySet[gs.Node] = IdentitySet()
    predictors: set[str] = set()
    for number, stage in enumerate(_stages(graph, spec), 1):
        above = {role: _ancestors(nodes) for role, nodes in stage.maps.items()}
        ends = IdentitySet(node for nodes in stage.maps.values() for node in nodes)
        shared = reduce(and_, above.values())
        if len(above) == 1:
            shared -= ends
        features: IdentitySet[gs.Node] = IdentitySet()
        if number == 1:
            features = shared & (_ancestors(stage.features) or shared)
        context = _context(graph, features)
        for node in graph.nodes:
            roles = [role for role, nodes in above.items() if node in nodes - before]
            if not roles or not is_standard(node, *CONV_OPS):
                continue
            if node in context:
                block = FunctionBlock(Role.CONTEXT)
            elif node in features:
                block = FunctionBlock(Role.BACKBONE)
            else:
                block = FunctionBlock(Role.TRUNK if node in shared else roles[0], number)
            found[label(node)] = block
            if node in ends:
                predictors.add(label(node))
        for nodes in above.values():
            before.update(nodes)
    return FunctionBlocks(found, frozenset(predictors))


@dataclass(frozen=True)
class _Stage:
    """A stage's maps, by the convolutions that make them."""

    maps: Mapping[Role, list[gs.Node]]
    features: tuple[gs.Node, ...] = ()
    """The convolutions whose outputs the next stage reads beside these maps."""


def _stages(graph: gs.Graph, spec: PoseSpec) -> Iterator[_Stage]:
    """Every stage in order: those whose maps are joined with features, then the last."""
    channels = {Role.HEAT: spec.heat.count} | ({Role.PAF: spec.paf.count} if spec.paf else {})
    known: IdentitySet[gs.Node] = IdentitySet()
    for node in graph.nodes:
        if not is_standard(node, "Concat"):
            continue
        makers = [_makers(tensor) for tensor in node.inputs]
        maps = {
            role: [m for group in makers for m in group if _filters(m) == count]
            for role, count in channels.items()
        }
        ends = IdentitySet(m for group in maps.values() for m in group)
        others = [m for group in makers if not IdentitySet(group) <= ends for m in group]
        if all(maps.values()) and others and not ends & known:
            known.update(ends)
            yield _Stage(maps, tuple(others))
    tensors = {tensor.name: tensor for tensor in graph.outputs}
    last = {Role.HEAT: spec.heat} | ({Role.PAF: spec.paf} if spec.paf else {})
    joined = spec.paf is not None and spec.paf.output == spec.heat.output
    maps = {}
    for role, where in last.items():
        makers_of_output = _makers(tensors[where.output])
        fitting = [m for m in makers_of_output if _filters(m) == where.count]
        maps[role] = (fitting if joined else []) or makers_of_output
    yield _Stage(maps)


def _filters(node: gs.Node) -> int | None:
    spec = Convolution.of(node)
    return None if spec is None else spec.out_channels


def _makers(tensor: gs.Tensor) -> list[gs.Node]:
    """The convolutions that a tensor comes from with no other convolution between."""
    found: list[gs.Node] = []
    pending, seen = [tensor], IdentitySet[gs.Node]()
    while pending:
        maker = producer_of(pending.pop())
        if maker is None or maker in seen:
            continue
        seen.add(maker)
        if is_standard(maker, *CONV_OPS):
            found.append(maker)
        else:
            pending += reads_of(maker)
    return found


def _ancestors(nodes: Iterable[gs.Node], without: gs.Node | None = None) -> IdentitySet[gs.Node]:
    """Each node and all that it depends on, as far as that avoids one node."""
    found: IdentitySet[gs.Node] = IdentitySet()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node in found or node is without:
            continue
        found.add(node)
        pending += [maker for tensor in reads_of(node) for maker in tensor.inputs]
    return found


def _context(graph: gs.Graph, features: IdentitySet[gs.Node]) -> IdentitySet[gs.Node]:
    """Those nodes of the features that follow the widest layer, if all passes through the first."""
    layers = [
        (node, spec)
        for node in graph.nodes
        if node in features and (spec := Convolution.of(node)) is not None and spec.group == 1
    ]
    widest = max((spec.out_channels for _, spec in layers), default=0)
    after = next(
        (i for i in reversed(range(len(layers))) if layers[i][1].out_channels == widest), 0
    )
    if after + 1 >= len(layers):
        return IdentitySet()
    entry = layers[after + 1][0]
    ends = [node for node in graph.nodes if node in features and _leaves(node, features)]
    around = _ancestors(ends, without=entry)
    first = next(node for node in graph.nodes if is_standard(node, *CONV_OPS))
    if first in around:
        return IdentitySet()
    return features - _ancestors([entry]) | [entry]


def _leaves(node: gs.Node, inside: IdentitySet[gs.Node]) -> bool:
    """Whether something outside reads what a node makes."""
    return any(reader not in inside for t in node.outputs for reader in t.outputs)
