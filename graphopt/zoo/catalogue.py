"""Which networks can be built, and what each costs at the input size that it was published with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

from graphopt.analysis.cost import Cost, cost_of
from graphopt.errors import UsageError
from graphopt.ir.header import Header
from graphopt.ir.network import Network
from graphopt.ir.records import Record
from graphopt.pose.map_slices import MapSlice
from graphopt.pose.skeleton import load_skeleton
from graphopt.pose.spec import METADATA_KEY, PoseSpec, Preprocess
from graphopt.zoo.blocks import Net, Outputs
from graphopt.zoo.efficienthrnet import SCALED, efficienthrnet
from graphopt.zoo.efficientnet import efficientnet_pose
from graphopt.zoo.hourglass import associative_embedding
from graphopt.zoo.hrnet import higherhrnet, hrnet
from graphopt.zoo.lightweight_openpose import lightweight_openpose
from graphopt.zoo.openpose import MAPS, openpose
from graphopt.zoo.personlab import personlab
from graphopt.zoo.resnet import resnet50

COUNTED = {"Conv": 1, "ConvTranspose": 1, "BatchNormalization": 2}
"""What is trained, and which part of its constants: half of a normalisation's are statistics."""
STRIDE = 8
"""The stride of all networks with heat maps and PAFs."""

DEEPEST = 32
"""By how much the networks without PAFs make a picture smaller at most."""


@dataclass(frozen=True)
class Entry:
    """A network that can be built."""

    build: Callable[..., Outputs]
    size: int
    """Height and width of the input that it was published with."""
    source: str
    multiple: int = 1
    """Heights and widths of the input are multiples of it."""
    counts: Literal["exact", "inferred", "not reproduced"] = "exact"
    """Whether parameters and multiply-adds are those of the published definition; or there is none,
    and it was inferred from what they are to be; or they are not what others publish of it."""
    option: str = ""
    """The other argument that `build` takes, `stages` or `refinements`; "" for none."""
    default: int = 0
    """Its value as published."""
    allowed: range = range(0)
    """The values that it may have."""


_SHEN = "Shen et al., IJCAI 2021"
_PAF = partial(Entry, size=368, multiple=STRIDE, option="refinements", default=1, allowed=range(7))
WIDTHS = {24: 128, 36: 128, 72: 84, 147: 58}
"""The widths of the second group that fit the multiply-adds of the paper's table 1, by depth."""

ZOO: Mapping[str, Entry] = {
    "openpose": _PAF(
        openpose,
        source="Cao et al., TPAMI 2019, section 3",
        option="stages",
        default=6,
        allowed=range(1, 7),
    ),
    "lightweight-openpose": _PAF(lightweight_openpose, source="Osokin, 2018, section 4"),
    **{
        f"resnet50-{depth}": _PAF(
            partial(resnet50, depth=depth, width=width),
            source=f"{_SHEN}, table 1",
            counts="inferred",
        )
        for depth, width in WIDTHS.items()
    },
    "efficientnet-pose": _PAF(efficientnet_pose, source=f"{_SHEN}, table 2", counts="inferred"),
    **{
        f"efficienthrnet-h{scale}": Entry(
            partial(efficienthrnet, scale=scale),
            size,
            "Neff et al., 2020, table 1",
            multiple=32,
            # Only of these two are there exact counts to hold them to.
            counts="exact" if scale in (3, 4) else "inferred",
        )
        for scale, (size, _, _) in SCALED.items()
    },
    "hrnet-w32": Entry(hrnet, 512, "Sun et al., CVPR 2019, section 3", multiple=32),
    "higherhrnet-w32": Entry(higherhrnet, 512, "Cheng et al., CVPR 2020, section 3", multiple=32),
    "associative-embedding": Entry(
        associative_embedding, 512, "Newell et al., NIPS 2017, section 3", multiple=64
    ),
    "personlab-resnet152": Entry(
        personlab, 1401, "Papandreou et al., ECCV 2018, section 3", counts="not reproduced"
    ),
}
"""Every network by its name."""


def entry_of(name: str) -> Entry:
    """The entry of that name.

    Raises:
        InputError: there is none.
    """
    if name not in ZOO:
        raise UsageError(f"no network {name!r} can be built", hint=f"there are: {', '.join(ZOO)}")
    return ZOO[name]


def build(
    name: str,
    shape: Sequence[int] | None = None,
    *,
    seed: int | None = 0,
    options: Mapping[str, int] = MappingProxyType({}),
) -> Network:
    """A network, its weights as training starts with them.

    Args:
        name: see `ZOO`.
        shape: of the input, [N, 3, height, width]; as it was published if left out.
        seed: of the weights; None for a network that is only counted.
        options: `stages` or `refinements`, where the network has them.

    Raises:
        InputError: no such network, option or input.
    """
    entry = entry_of(name)
    for option, value in options.items():
        if option != entry.option:
            has = f"it has --{entry.option}" if entry.option else "it has no options"
            raise UsageError(f"{name} has no --{option}", hint=has)
        if value not in entry.allowed:
            limits = f"{entry.allowed.start} to {entry.allowed.stop - 1}"
            raise UsageError(f"{name} has {limits} {option}, not {value}")
    given = {entry.option: entry.default, **options} if entry.option else {}
    builder = partial(entry.build, **given)
    return assemble(builder, entry.source, _checked(name, entry, shape), seed)


def assemble(
    builder: Callable[[Net], Outputs], source: str, shape: Sequence[int], seed: int | None
) -> Network:
    """The graph that a builder makes, with a header that says what it is.

    Arguments as in `build`; `source` is where the definition comes from.
    """
    net = Net(shape, seed)
    graph = net.finish(builder(net))
    text = f"Built from {source}; the weights are random, as training starts with them."
    metadata = {}
    maps = {tensor.name: tensor.shape for tensor in graph.outputs}
    if maps.keys() == MAPS.keys():
        metadata[METADATA_KEY] = _spec().to_json()
    elif "heat" in maps:
        metadata[METADATA_KEY] = _heat_spec(shape[2], maps["heat"]).to_json()
    graph.header = Header(producer="graphopt", doc_string=text, metadata=metadata)
    return graph


def _checked(name: str, entry: Entry, shape: Sequence[int] | None) -> Sequence[int]:
    if shape is None:
        return 1, 3, entry.size, entry.size
    if len(shape) != 4 or shape[1] != 3:
        text = ",".join(map(str, shape))
        raise UsageError(f"{text} is not an input of {name}", hint="write 1,3,368,656")
    if any(extent % entry.multiple for extent in shape[2:]):
        size = f"{shape[2]}x{shape[3]}"
        raise UsageError(f"{name} takes multiples of {entry.multiple}, not {size}")
    return shape


def _spec() -> PoseSpec:
    """How OpenPose's networks, and those after them, are fed and read."""
    return PoseSpec(
        preprocess=Preprocess(
            color="bgr", mean=(128.0,) * 3, scale=(1 / 256,) * 3, multiple=STRIDE
        ),
        skeleton=load_skeleton("coco18"),
        heat=MapSlice(output="heat", count=MAPS["heat"]),
        paf=MapSlice(output="paf", count=MAPS["paf"]),
        stride=STRIDE,
    )


def _heat_spec(rows: int, heat: Sequence[int]) -> PoseSpec:
    """How networks of COCO's heat maps are fed, and read without what groups people beside them."""
    stride = round(rows / heat[2])
    return PoseSpec(
        preprocess=Preprocess(
            color="rgb",
            mean=(123.675, 116.28, 103.53),
            scale=(1 / 58.395, 1 / 57.12, 1 / 57.375),
            pad_value=114.0,
            multiple=DEEPEST,
            height=rows,
        ),
        skeleton=load_skeleton("coco17"),
        heat=MapSlice(output="heat", count=heat[1]),
        stride=stride,
    )


def trained(cost: Cost) -> int:
    """A network's parameters as papers count them: weights, biases, and what normalisations scale
    and add; not the mean and variance that those subtract and divide by.
    """
    return sum(layer.params // COUNTED[layer.op] for layer in cost.layers if layer.op in COUNTED)


@dataclass(frozen=True)
class Listed(Record):
    """A line of `graphopt zoo list`."""

    name: str
    input: int
    """Height and width."""
    params: int
    macs: int
    counts: str
    """See `Entry`."""
    source: str
    options: str


def catalogue() -> Iterator[Listed]:
    """Every network, and what it costs."""
    for name, entry in ZOO.items():
        cost = cost_of(build(name, seed=None))
        limits = f"{entry.allowed.start} to {entry.allowed.stop - 1}, {entry.default}"
        yield Listed(
            name=name,
            input=entry.size,
            params=trained(cost),
            macs=cost.macs,
            counts=entry.counts,
            source=entry.source,
            options=f"--{entry.option} ({limits})" if entry.option else "",
        )
