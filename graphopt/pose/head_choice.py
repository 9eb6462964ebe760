"""Which head a network has: `detect_head`; and the heads that there are, by name."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError, InputError, UsageError
from graphopt.ir.arrays import Feeds
from graphopt.pose import heads
from graphopt.pose.decode import Poses
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.detect import HEADS as MAPS
from graphopt.pose.detect import detect_pose_spec
from graphopt.pose.head import Head, HeadSpec, Look, Size
from graphopt.pose.preprocess import Placement
from graphopt.pose.probe import as_proto
from graphopt.pose.spec import (
    METADATA_KEY,
    AnySpec,
    PoseSpec,
    parse_pose_spec,
    parsed,
    pose_text,
)


@cache
def all_heads() -> Mapping[str, Head]:
    """Every head by name, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(heads.__path__))
    modules = (importlib.import_module(f"{heads.__name__}.{name}") for name in names)
    found: dict[str, Head] = {module.HEAD.name: module.HEAD for module in modules}
    return found


def find_head(name: str) -> Head:
    """The head of a name.

    Raises:
        UsageError: there is none.
    """
    known = all_heads()
    if name not in known:
        raise UsageError(f"there is no head {name!r}", hint=f"one of {', '.join(known)}")
    return known[name]


def head_of(spec: AnySpec) -> Head:
    """The head that reads a pose spec."""
    if isinstance(spec, HeadSpec):
        return find_head(spec.head)
    assert isinstance(spec, PoseSpec)
    return find_head(MAPS[0] if spec.paf is not None else MAPS[1])


def decode_outputs(
    outputs: Feeds, spec: AnySpec, placement: Placement, options: DecodeOptions, size: Size
) -> Poses:
    """The people in a network's outputs for one photo; see `Head.decode`."""
    return head_of(spec).decode(outputs, spec, placement, options, size)


def detect_head(model: Any, *, head: str | None = None, **said: Any) -> AnySpec:
    """How to feed and to read a pose network, whatever its head.

    In this order: the head that the user names, or maps that they name; the file's own metadata;
    maps alone, as `detect_pose_spec` finds them; all other heads.

    Args:
        model: an ONNX file's path, a ModelProto, or a gs.Graph.
        head: a head's name.
        said: arguments of `detect_pose_spec`.

    Raises:
        InputError: the file cannot be read, no head fits its outputs, or several do.
    """
    proto = as_proto(model)
    maps = said.get("maps") is not None
    if head is not None:
        return _named(find_head(head), Look(proto, said))
    stored = next((p.value for p in proto.metadata_props if p.key == METADATA_KEY), None)
    if stored is not None and not maps and is_of_head(stored):
        said.pop("maps", None)
        return parse_spec(stored, where=f"the file's metadata {METADATA_KEY!r}").with_choices(
            **said
        )
    try:
        return detect_pose_spec(proto, **said)
    except GraphoptError as error:
        if stored is not None or maps:
            raise
        return _fitting(Look(proto, said), error)


def _named(head: Head, look: Look) -> AnySpec:
    """What a head that was named makes of a network; of several ways the first."""
    spec = next(iter(head.read(look)), None)
    if spec is None:
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in look.shapes().items())
        raise InputError(
            f"the head {head.name} does not fit the network's outputs: {shapes}",
            hint=f"it reads {head.summary}",
        )
    return spec


def _fitting(look: Look, otherwise: GraphoptError) -> AnySpec:
    """The one head that fits, of those that do not read maps alone."""
    found = list(readings(look))
    if not found:
        raise otherwise
    if len({spec.head for spec in found}) > 1:
        names = ", ".join(dict.fromkeys(spec.head for spec in found))
        raise InputError(
            f"the outputs fit several heads: {names}", hint=f"say which: --head {found[0].head}"
        )
    return found[0]


def readings(look: Look) -> Iterator[HeadSpec]:
    """Every way in which heads other than maps alone read a network."""
    try:
        look.shapes()
    except GraphoptError:
        return
    for name, head in all_heads().items():
        if name not in MAPS:
            for spec in head.read(look):
                assert isinstance(spec, HeadSpec)
                yield spec


def is_of_head(text: str) -> bool:
    """Whether JSON is a `HeadSpec`'s."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and "head" in value


def parse_spec(text: str, *, where: str) -> AnySpec:
    """A pose spec of any head from JSON; errors say where it is from.

    Raises:
        InputError: it holds none, or one of a head that there is not.
    """
    if not is_of_head(text):
        return parse_pose_spec(text, where=where)
    spec = parsed(HeadSpec, text, where=where)
    find_head(spec.head)
    return spec


def spec_from_plain(value: Mapping[str, Any]) -> AnySpec:
    """What a pose spec's `to_plain` made, of any head."""
    return (HeadSpec if "head" in value else PoseSpec).from_plain(value)


def read_spec(path: Path) -> AnySpec:
    """The pose spec of any head that a bundle keeps as `pose.json`.

    Raises:
        InputError: the file cannot be read, or holds no pose spec.
    """
    return parse_spec(pose_text(path), where=str(path))
