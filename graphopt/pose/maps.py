"""Which of a network's outputs are heat maps and part affinity fields (PAFs): `find_maps`.

What the channel counts, the shapes and the graph say without doubt is taken; what can be read in
two ways, or would leave another output with maps unused, is refused, and `--maps` settles it:

    heat=NAME                         one person a photo, by heat maps alone
    heat=NAME,paf=NAME                people, by heat maps and PAFs
    heat=NAME[0:19],paf=NAME[19:57]   some channels of an output, the last one not included
    heat=NAME:nhwc                    channels come last (nchw: first)

Outputs that it does not name are not needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from graphopt.errors import InputError, Unsupported, UsageError
from graphopt.pose.map_slices import AXES, Layout, MapReading, MapSlice, Output
from graphopt.pose.maps_option import MAPS_HINT, SLICE, as_flag, parse_maps
from graphopt.pose.output_graph import Graph
from graphopt.pose.skeleton import Skeleton, builtin_skeletons, load_skeleton


def maps_among(
    shapes: Mapping[str, tuple[int, ...]], size: tuple[int, int], graph: Graph
) -> list[Output]:
    """The outputs that hold maps: four axes, two of which are the input's rows and columns.

    Args:
        shapes: every output's, in the graph's order, for an input of one item.
        size: that input's rows and columns.
        graph: tells where shapes read both ways.
    """
    found = []
    for name, shape in shapes.items():
        if len(shape) != 4 or shape[0] != 1:
            continue
        possible = [layout for layout in AXES if _same_aspect(shape, layout, size)]
        told = graph.layout(name)
        if told is not None and min(shape[axis] for axis in AXES[told][1:]) > 1:
            found.append(Output(name, shape, told))
        elif possible:
            exact = [layout for layout in possible if _aspect_error(shape, layout, size) == 0]
            (*others, best) = exact or possible
            found.append(Output(name, shape, None if others else best))
    agreed = {output.layout for output in found} - {None}
    if len(agreed) == 1:
        found = [Output(o.name, o.shape, o.layout or next(iter(agreed))) for o in found]
    return found


def _aspect_error(shape: Sequence[int], layout: Layout, size: tuple[int, int]) -> float:
    """How far maps' aspect is from the input's."""
    _, rows, columns = AXES[layout]
    return abs(math.log(size[0] * shape[columns] / (size[1] * shape[rows])))


def _same_aspect(shape: Sequence[int], layout: Layout, size: tuple[int, int]) -> bool:
    """Whether maps have the input's aspect, up to a pixel that rounding costs."""
    _, rows, columns = AXES[layout]
    least = min(shape[rows], shape[columns])
    return least > 1 and _aspect_error(shape, layout, size) <= 1 / least


_OTHER_HEADS = ("blazepose33", "coco-wholebody133", "halpe26", "hand21")
"""Skeletons that networks seldom have maps for: they are looked for where a user names them."""


def find_maps(
    outputs: Sequence[Output], graph: Graph, chosen: Skeleton | None, said: str | None = None
) -> MapReading:
    """Heat maps and PAFs among the outputs; of several stages the last.

    Args:
        outputs: see `maps_among`.
        graph: what they come from.
        chosen: the skeleton, if the user says which.
        said: what the user says about maps, see the module.

    Raises:
        InputError: they fit no skeleton that is known, can be read in several ways, or some would
            stay unused that may be needed.
    """
    usual = [name for name in builtin_skeletons() if name not in _OTHER_HEADS]
    bodies = [chosen] if chosen else [load_skeleton(name) for name in usual]
    if said is not None:
        reading = _as_said(outputs, parse_maps(said), bodies, chosen)
    else:
        reading = _only(
            [*_with_pafs(outputs, graph, bodies)] or [*_alone(outputs, bodies, chosen)], outputs
        )
        _nothing_left(reading, outputs, graph)
    sizes = {o.size for o in outputs if reading.uses(o)}
    if len(sizes) > 1:
        raise Unsupported(
            f"heat maps and PAFs differ in size: {reading}",
            hint="name outputs of one size with --maps heat=NAME,paf=NAME",
        )
    return reading


def _with_pafs(
    outputs: Sequence[Output], graph: Graph, bodies: Sequence[Skeleton]
) -> Iterator[MapReading]:
    """Every way to read heat maps and PAFs."""
    latest = {output.channels: output for output in outputs}
    for body in bodies:
        pafs = body.paf_channels
        for count in (len(body.parts) + 1, len(body.parts)) if pafs else ():
            heat, paf, both = (latest.get(n) for n in (count, pafs, count + pafs))
            if heat is not None and paf is not None:
                yield MapReading(body, heat.all(), paf.all())
                if both is not None and graph.is_join_of(both.name, (heat.name, paf.name)):
                    both = None
            if both is not None:
                yield _joined(body, both, count, graph)


def _joined(body: Skeleton, output: Output, count: int, graph: Graph) -> MapReading:
    pafs, seams = body.paf_channels, graph.joints(output.name)
    pafs_first = pafs in seams and count not in seams
    known = (count in seams) != (pafs in seams)
    return MapReading(
        body,
        output.all(pafs if pafs_first else 0, count),
        output.all(0 if pafs_first else count, pafs),
        {} if known else {"maps": f"one output of {output.channels} channels; PAFs may come first"},
    )


def _alone(
    outputs: Sequence[Output], bodies: Sequence[Skeleton], chosen: Skeleton | None
) -> Iterator[MapReading]:
    """Every way to read heat maps of one person: without a background, or else with one."""
    latest = {output.channels: output for output in outputs}
    for background in (0, 1):
        found = [
            (body, latest[count])
            for body in bodies
            if (count := len(body.parts) + background) in latest
        ]
        for body, output in found:
            yield MapReading(
                body, output.all(), None, _guesses(body, output.channels, bodies, chosen)
            )
        if found:
            return


def _guesses(
    body: Skeleton, count: int, bodies: Sequence[Skeleton], chosen: Skeleton | None
) -> dict[str, str]:
    """What is not known of a network with heat maps alone."""
    others = [b.name for b in bodies if b is not body and count - len(b.parts) in (0, 1)]
    but = f", which {' and '.join(others)} with a background would have too" if others else ""
    why = f"{count} heat maps and no PAFs are all there is{but}"
    guessed = {} if chosen else {"skeleton": why}
    return guessed if chosen and not chosen.paf_channels else guessed | {"decoder": why}


def _only(readings: Sequence[MapReading], outputs: Sequence[Output]) -> MapReading:
    """The one way to read the outputs."""
    if not readings:
        raise _fits_nothing(outputs)
    if len(readings) > 1:
        ways = "; ".join(str(reading) for reading in readings)
        raise InputError(
            f"the outputs can be read in {len(readings)} ways: {ways}",
            hint=f"say which with --maps {as_flag(readings[0])}",
        )
    return readings[0]


def _nothing_left(reading: MapReading, outputs: Sequence[Output], graph: Graph) -> None:
    """Refuse a reading that leaves maps unused which may be needed."""
    used = [output for output in outputs if reading.uses(output)]

    def earlier(output: Output) -> bool:
        """Whether it is another stage's, or a coarser one's, of what is read."""
        return any(
            output.channels == other.channels
            and (
                reading.paf is not None
                or output.size < other.size
                or graph.comes_from(other.name, output.name)
            )
            for other in used
        )

    left = [
        output
        for output in outputs
        if output not in used
        and not earlier(output)
        and output.channels not in reading.skeleton.spare
        and not graph.is_join_of(output.name, [other.name for other in used])
    ]
    if left:
        names = ", ".join(map(str, left))
        raise InputError(
            f"{reading} would leave {names} unused, which may be needed to find people",
            hint=f"if it is not: --maps {as_flag(reading)}",
        )


def _fits_nothing(outputs: Sequence[Output]) -> InputError:
    return InputError(
        "the outputs fit no skeleton that is known: "
        f"{', '.join(map(str, outputs)) or 'none holds maps'}",
        hint="say which one it is with --skeleton, a built-in name "
        f"({', '.join(builtin_skeletons())}) or a TOML file, and with --maps heat=NAME,paf=NAME "
        "which outputs are its maps",
    )


def _as_said(
    outputs: Sequence[Output],
    said: Mapping[str, str],
    bodies: Sequence[Skeleton],
    chosen: Skeleton | None,
) -> MapReading:
    slices = {kind: _slice(kind, text, outputs) for kind, text in said.items()}
    heat, paf = slices["heat"], slices.get("paf")
    if paf is not None and heat.output == paf.output and _overlap(heat, paf):
        raise UsageError(f"--maps: {heat} and {paf} have channels in common", hint=MAPS_HINT)
    if chosen is not None:
        return MapReading(chosen, heat, paf, {})
    pafs = 0 if paf is None else paf.count
    for background in (0, 1):
        for body in bodies:
            if len(body.parts) + background == heat.count and pafs in (0, body.paf_channels):
                known = _guesses(body, heat.count, bodies, chosen) if paf is None else {}
                return MapReading(
                    body, heat, paf, {k: v for k, v in known.items() if k == "skeleton"}
                )
    raise InputError(
        f"{heat.count} heat maps and {pafs} PAF channels fit no skeleton that is known",
        hint="say which one it is with --skeleton, a built-in name "
        f"({', '.join(builtin_skeletons())}) or a TOML file",
    )


def _overlap(a: MapSlice, b: MapSlice) -> bool:
    return a.first < b.first + b.count and b.first < a.first + a.count


def _slice(kind: str, text: str, outputs: Sequence[Output]) -> MapSlice:
    """One entry of --maps; a name that is an output's is that output, however it looks."""
    by_name = {output.name: output for output in outputs}
    match = SLICE.fullmatch(text)
    if text in by_name or match is None:
        name, first, end, layout = text, None, None, None
    else:
        name, first, end, layout = match.group("name", "first", "end", "layout")
    output = by_name.get(name)
    if output is None:
        there = ", ".join(map(str, outputs)) or "none"
        raise UsageError(f"--maps {kind}={name}: no output with maps", hint=f"there are: {there}")
    if layout is not None:
        output = Output(name, output.shape, "nhwc" if layout == "nhwc" else "nchw")
    start, stop = int(first or 0), int(end) if end else output.channels
    if not start < stop <= output.channels:
        raise UsageError(f"--maps {kind}={text}: {output} has no such channels", hint=MAPS_HINT)
    return output.all(start, stop - start)
