"""`undilate-conv`: plain convolutions instead of dilated ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, ClassVar, Literal, TypeAlias, get_args

import numpy as np
import onnx_graphsurgeon as gs
from pydantic import Field

from graphopt.analysis.latency.device import Device
from graphopt.analysis.latency.predict import network_ms, rewritten_ms
from graphopt.errors import InputError
from graphopt.fitting.stack import blank_stack, fit_stack, grouped, write_stack
from graphopt.ir.convolution import Convolution
from graphopt.ir.edit import constant
from graphopt.ir.graph import label, producer_of
from graphopt.ir.mosaic import Mosaic
from graphopt.ir.space_to_batch import (
    UNSIZED,
    DilatedRegion,
    find_regions,
    image_size,
    is_dilated,
    is_pointwise,
    plain_conv,
    reach_of,
)
from graphopt.optimizer.pass_contract import (
    Change,
    Context,
    Numerics,
    PreparedPass,
    Skip,
    loosest,
    option,
)

Way: TypeAlias = Literal["polyphase", "stacked", "block"]


@dataclass(frozen=True)
class Single:
    """A convolution to replace by a stack."""

    node: gs.Node
    spec: Convolution
    depth: int
    """Convolutions of the stack."""
    width: int
    """Channels between two of them."""


@dataclass(frozen=True)
class Block:
    """Three convolutions, 1x1, 3x3 and dilated 3x3, with nothing but activations between them."""

    first: gs.Node
    node: gs.Node
    """The dilated one."""


Site: TypeAlias = DilatedRegion | Single | Block


@dataclass(frozen=True)
class Fastest:
    """The way of each convolution that a device is predicted to be fastest by."""

    ways: Mapping[str, Way]
    """By the name of a dilated convolution's output."""
    why_not: str
    """What is said of the others."""


@dataclass(frozen=True)
class UndilateConv(PreparedPass[Site, Fastest | None]):
    """Compute dilated convolutions as plain ones: on the phases of their input, or as stacks.

    Rewrite:
        way=polyphase: the phases of the input, pixels that agree in row and column modulo the
        dilation, are laid side by side in one image with zeros between them, and one plain
        convolution computes them all: [N, C, H, W] -> Pad -> Reshape, Transpose, Reshape -> Conv ->
        the same back -> Slice. Convolutions of the same dilation share one split and one merge
        where only element-wise operators and 1x1 convolutions stand between them; what these leave
        between the phases is multiplied by zero before the next convolution reads it.
        way=stacked: a 3x3 convolution of dilation d is d * 3x3, two for dilation 2, with the same
        receptive field and nothing between them. The result keeps its tensor's name.
        way=block: [1x1, 3x3, dilated 3x3] -> [3x3, 3x3, 3x3], with the same receptive field for
        dilation 2. The first kernel is the 1x1 amid zeros, the last one the dilated one without its
        gaps: a start for fitting, no more.
        way=fastest: for each convolution the way that the device's profile predicts to save most
        time, polyphase where the others do not save twice as much; none where nothing saves any.

    Numerics:
        way=polyphase is exact: the same products are summed. way=stacked is approximate: the
        product of the stack's kernels is fitted to the dilated one with its gaps, and what is left
        over is reported for each site. In Lightweight OpenPose that is 0.22 to 0.29 of the kernel
        (0.08 with 192 channels between instead of 128), and AP on 100 photos of COCO falls from
        0.475 to 0.408. `reconstruct` then fits the last convolution and all that follow.
        way=block is another function, and needs training: let `reconstruct` and `distill` follow.
        way=fastest may take any of them; the report has what it took.

    Why:
        Fast algorithms for small kernels, Winograd's above all, are for dilation 1 only in the
        mobile engines that were looked at (TFLite's GPU delegate, MNN, ncnn). In phases, weights
        stay as they are; multiply-adds grow by the zeros between them, 9% for dilation 2 at 46 x 46
        (graphopt/ir/space_to_batch.py). Stacks need no splitting, and twice the multiply-adds for
        dilation 2. Blocks are what Shen et al. ("Towards Fast and Accurate Multi-Person Pose
        Estimation on Mobile Devices", IJCAI 2021, section 2.1) train in place of Lightweight
        OpenPose's: as many multiply-adds as with stacks, and one kernel less to launch.

    When it skips:
        The weight is not constant; the convolution is transposed or not two-dimensional.
        way=polyphase: the size of the input is not known (give --input-shape); there are strides,
        or more pads than the kernel reaches. way=stacked: with its gaps, the kernel is no odd
        square; `width` does not divide by the groups; the stack would leave more than
        `max_residual`. way=block: it does not end such a block, or does not keep the size.

    Examples:
        undilate-conv
            y = Conv<dilations=[2,2], pads=[2,2,2,2]>(x, first)
            ->  Pad Reshape Transpose Reshape Conv Reshape Transpose Reshape Slice
        undilate-conv{way=stacked}
            y = Conv<dilations=[2,2], group=3>(x, small)  ->  Conv Conv: becomes 2 3x3
        undilate-conv{way=block}
            a = Conv(x, point) b = Conv<pads=[1,1,1,1]>(a, inner)
            y = Conv<dilations=[2,2], pads=[2,2,2,2]>(b, inner)  ->  Conv Conv Conv: three 3x3
    """

    name: ClassVar[str] = "undilate-conv"
    way: Literal["polyphase", "stacked", "block", "fastest"] = option(
        "polyphase",
        "the same sums on a mosaic of phases, fitted stacks of 3x3, the whole block as 3x3, or "
        "whatever is fastest on --device",
    )
    width: Annotated[int, Field(ge=0)] = option(
        0, "way=stacked: channels between dense convolutions; 0: as many as come out"
    )
    max_residual: Annotated[float, Field(gt=0)] = option(
        0.5, "way=stacked: largest part of a kernel that may be left over"
    )
    seed: int = option(0, "way=stacked: of the fit's random starts")

    @property
    def numerics(self) -> Numerics:
        return _NUMERICS[self.way]

    def bound_to_size(self, graph: gs.Graph) -> bool:
        """Phases are laid out for one size."""
        return self.way in ("polyphase", "fastest") and any(map(_is_unsized, graph.nodes))

    def prepare(self, graph: gs.Graph, context: Context) -> Fastest | None:
        if self.way != "fastest":
            return None
        if context.device is None:
            raise InputError(
                "which way is fastest depends on the device",
                pass_name=self.name,
                hint="name it with --device, or choose way=polyphase",
            )
        ways: dict[str, Way] = {}
        why_not = f"nothing is predicted to be faster on {context.device.name}"
        if any(map(is_dilated, graph.nodes)):
            try:
                ways = self._fastest(graph, context.device)
            except InputError as error:
                why_not = error.message
        return Fastest(ways, why_not)

    def _fastest(self, graph: gs.Graph, device: Device) -> dict[str, Way]:
        """The way of each dilated convolution that is worth changing, by its output's name."""
        unsized = {node.outputs[0].name for node in graph.nodes if _is_unsized(node)}
        lossy: dict[str, tuple[float, Way]] = {}
        for way in _LOSSY:
            for (name,), gain in self._savings(graph, device, way).items():
                if name not in unsized and gain > lossy.get(name, (0.0, way))[0]:
                    lossy[name] = gain, way
        ways = {name: way for name, (_, way) in lossy.items()}
        for names, gain in self._savings(graph, device, "polyphase").items():
            rival = sum(lossy[name][0] for name in names if name in lossy)
            if gain > max(0.0, _EXACT_IS_WORTH * rival):
                ways |= dict.fromkeys(names, "polyphase")
        return ways

    def _savings(self, graph: gs.Graph, device: Device, way: Way) -> dict[tuple[str, ...], float]:
        """Milliseconds that each site of a way saves, by the names of the dilated outputs."""
        savings, before = {}, network_ms(graph, device)
        for index, site in enumerate(self._by(way, graph)):
            if not isinstance(site, Skip):

                def rewritten(copy: gs.Graph, index: int = index) -> None:
                    twin = next(islice(self._by(way, copy), index, None))
                    assert not isinstance(twin, Skip)
                    self._apply(copy, twin, fit=False)

                savings[_names(site)] = before - rewritten_ms(graph, device, rewritten)
        return savings

    def match(self, graph: gs.Graph, facts: Fastest | None) -> Iterator[Site | Skip]:
        if facts is None:
            assert self.way != "fastest"
            yield from self._by(self.way, graph)
            return
        for node in filter(is_dilated, graph.nodes):
            if node.outputs[0].name not in facts.ways:
                yield Skip(label(node), UNSIZED if _is_unsized(node) else facts.why_not)
        for way in get_args(Way):
            for found in self._by(way, graph):
                if not isinstance(found, Skip) and facts.ways.get(_names(found)[0]) == way:
                    yield found

    def numerics_given(self, facts: Fastest | None) -> Numerics:
        ways = [self.way] if facts is None else facts.ways.values()
        return loosest(_NUMERICS[way] for way in ways)

    def _by(self, way: Way, graph: gs.Graph) -> Iterator[Site | Skip]:
        if way == "polyphase":
            yield from find_regions(graph)
            return
        find = self._single if way == "stacked" else _block
        for node in filter(is_dilated, list(graph.nodes)):
            found = find(node)
            yield Skip(label(node), found) if isinstance(found, str) else found

    def _single(self, node: gs.Node) -> Single | str:
        spec = plain_conv(node)
        if isinstance(spec, str):
            return spec
        if spec.pads is None:
            return "its pads depend on a size that is not known: fix it with --input-shape"
        height, width = reach_of(spec)
        if height != width or height % 2 or not height:
            return f"with its gaps its kernel is {height + 1}x{width + 1}, no odd square"
        inner = spec.out_channels if spec.depthwise else self.width or spec.out_channels
        if inner % spec.group:
            return f"{inner} channels do not divide by its {spec.group} groups"
        return Single(node, spec, height // 2, inner)

    def rewrite(self, graph: gs.Graph, site: Site) -> Change | Skip:
        return self._apply(graph, site, fit=True)

    def _apply(self, graph: gs.Graph, site: Site, *, fit: bool) -> Change | Skip:
        """Rewrite a site; without `fit` only to see what that would cost."""
        if isinstance(site, DilatedRegion):
            return _split(graph, site)
        return _widen(graph, site) if isinstance(site, Block) else self._stack(graph, site, fit=fit)

    def _stack(self, graph: gs.Graph, site: Single, *, fit: bool) -> Change | Skip:
        spec, name = site.spec, label(site.node)
        dilated, width = grouped(spec.weight, spec.group), site.width // spec.group
        if not fit:
            write_stack(graph, site.node, blank_stack(dilated, site.depth, width), spec.bias)
            return Change(name, "not fitted")
        kernel = np.zeros((*dilated.shape[:3], *(reach + 1 for reach in reach_of(spec))))
        kernel[..., :: spec.dilations[0], :: spec.dilations[1]] = dilated
        stack = fit_stack(kernel, site.depth, width, enough=self.max_residual, seed=self.seed)
        if stack.residual > self.max_residual:
            return Skip(name, f"the stack would leave {stack.residual:.2f} of the kernel")
        write_stack(graph, site.node, stack, spec.bias)
        return Change(name, f"becomes {site.depth} 3x3, {stack.residual:.3f} of the kernel lost")


_NUMERICS: Mapping[str, Numerics] = {
    "polyphase": Numerics.EXACT,
    "stacked": Numerics.APPROXIMATE,
    "block": Numerics.RETRAIN,
    "fastest": Numerics.RETRAIN,  # until `prepare` has chosen
}
_LOSSY: tuple[Way, ...] = ("stacked", "block")
_EXACT_IS_WORTH = 0.5
"""The part of what the other ways save that polyphase must save to be taken before them: what
they lose has to be fitted again."""


def _is_unsized(node: gs.Node) -> bool:
    """Whether phases, which lose nothing, would do if the size of the input were known."""
    return is_dilated(node) and image_size(node.inputs[0]) is None


def _names(site: Site) -> tuple[str, ...]:
    """Names of the outputs of a site's dilated convolutions."""
    if isinstance(site, DilatedRegion):
        return tuple(node.outputs[0].name for node in site.nodes if is_dilated(node))
    return (site.node.outputs[0].name,)


def _split(graph: gs.Graph, region: DilatedRegion) -> Change:
    first, *others = [label(node) for node in region.nodes if is_dilated(node)]
    Mosaic(graph, region).emit()
    summary = f"plain on {'x'.join(map(str, region.dilation))} phases"
    if others:
        summary += f", with {', '.join(others)}"
    return Change(first, summary)


# --- blocks -------------------------------------------------------------------------------------


def _block(node: gs.Node) -> Block | str:
    """The block that a dilated convolution ends, or why it does not end one."""
    chain = [node]
    while len(chain) < 3 and (before := _conv_before(chain[-1])) is not None:
        chain.append(before)
    specs = [spec for spec in map(plain_conv, chain) if isinstance(spec, Convolution)]
    shapes = [(spec.kernel, spec.strides, spec.group) for spec in specs]
    if shapes != [((k, k), (1, 1), 1) for k in (3, 3, 1)]:
        return "it does not end a block [1x1, 3x3, dilated 3x3]"
    if any(d != 1 for d in specs[1].dilations):
        return "the convolution before it is dilated as well"
    if any(spec.pads != tuple(reach // 2 for reach in reach_of(spec)) * 2 for spec in specs):
        return "a convolution of its block does not keep the size"
    return Block(chain[2], node)


def _conv_before(node: gs.Node) -> gs.Node | None:
    """The convolution that feeds a node, with at most one element-wise operator in between."""
    maker = producer_of(node.inputs[0])
    if maker is not None and is_pointwise(maker):
        maker = producer_of(maker.inputs[0])
    return maker


def _widen(graph: gs.Graph, block: Block) -> Change:
    """The 1x1 amid zeros, and the dilated kernel without its gaps."""
    for node in (block.first, block.node):
        spec = Convolution.of(node)
        assert spec is not None
        weight = spec.weight
        if spec.kernel == (1, 1):
            weight = np.pad(weight, ((0, 0), (0, 0), (1, 1), (1, 1)))
            node.inputs[1] = constant(graph, f"{node.inputs[1].name}.3x3", weight)
        node.attrs = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    return Change(label(block.node), f"with {label(block.first)} and the one between: three 3x3")
