"""What the compiler's process made for each kind of CPU, laid out as the files of one bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from graphopt.codegen.hosts import family, ranked
from graphopt.codegen.targets import check_features
from graphopt.compiler.options import CompileOptions
from graphopt.errors import UsageError
from graphopt.runtime.levels import Level
from graphopt.runtime.plan import ALIGNMENT, BundleTarget, Plan
from graphopt.runtime.runner import byte_size

WEIGHTS = -1
"""The arena of constants in plans."""


@dataclass(frozen=True)
class MadeLevel:
    """What was made for one kind of CPU, or for a GPU.

    Args:
        name: as in `runtime.levels.Level`.
        target: what it runs on.
        plan: its plan.
        weights: its constants, each at an aligned offset.
        code_file: the kernels' file where there is but one level.
        code: its content.
        kept: what half precision cannot hold, a phrase each.
    """

    name: str
    target: BundleTarget
    plan: Plan
    weights: bytes
    code_file: str
    code: bytes
    kept: tuple[str, ...]


def check_levels(options: CompileOptions) -> None:
    """Refuse levels that there are not, or that do not go with the other options.

    Raises:
        UsageError: says which.
        Unsupported: this machine lacks a feature, and no host is named.
    """
    if not options.cpu_levels:
        return
    if options.cpu_features:
        raise UsageError(
            "--cpu-levels and --cpu-features say the same twice: each level is features",
            hint="leave out --cpu-features",
        )
    ordered = ranked(options.cpu_levels, options.host)
    check_features(options.target, options.host, ordered[0])


def levels_for(options: CompileOptions, *, quantised: bool) -> list[str]:
    """The levels that a bundle is to have, the best first; none where it is for one kind of CPU.

    Args:
        options: what was asked for; for another machine, and without features, those that pay.
        quantised: whether the network has quantised convolutions.
    """
    asked: Sequence[str] = options.cpu_levels
    if options.target == "cpu" and options.host and not (asked or options.cpu_features):
        halves = "float16" if options.fp16_arithmetic else "float32"
        precision = "int8" if quantised else "bfloat16" if options.bf16 else halves
        asked = family(options.host, precision)
    return ranked(asked, options.host) if len(asked) > 1 else [*asked]


@dataclass(frozen=True)
class Made:
    """What the compiler's process left.

    Args:
        tvm: TVM's version.
        levels: the best first.
        remarks: which levels were left out, a sentence each.
    """

    tvm: str
    levels: Sequence[MadeLevel]
    remarks: tuple[str, ...]


def read_levels(work: Path) -> Made:
    """What the compiler's process left in a folder."""
    description = json.loads((work / "description.json").read_text())
    made = []
    for level in description["levels"]:
        place, code_file = work / level["folder"], level["code_file"]
        made.append(
            MadeLevel(
                level["name"],
                BundleTarget.from_plain(level["target"]),
                Plan.from_json((place / "plan.json").read_bytes()),
                (place / "weights.bin").read_bytes(),
                code_file,
                (place / code_file).read_bytes(),
                tuple(level["kept"]),
            )
        )
    remarks = tuple(
        f"level {name} is left out: this network has the same kernels for {other}"
        for name, other in description["equal"].items()
    )
    return Made(description["tvm"], made, remarks)


def one_target(made: Sequence[MadeLevel]) -> BundleTarget:
    """What a bundle says that it runs on: the features that all levels need."""
    first, *others = made
    features = set(first.target.cpu_features).intersection(*(m.target.cpu_features for m in others))
    common = tuple(feature for feature in first.target.cpu_features if feature in features)
    told = "; ".join(dict.fromkeys(level.target.description for level in made))
    return replace(first.target, cpu_features=common, description=told)


def laid_out(made: Sequence[MadeLevel]) -> tuple[tuple[Level, ...], dict[str, bytes]]:
    """The files of a bundle, and its levels.

    Constants that several levels have in common are stored once, in a file of those that have them.

    Args:
        made: the levels, the best first; where there is but one, the bundle has none.

    Returns:
        The manifest's `levels`, and the files' contents by name.
    """
    if len(made) == 1:
        (only,) = made
        plan = only.plan.to_json().encode()
        return (), {"plan.json": plan, "weights.bin": only.weights, only.code_file: only.code}
    constants = {level.name: _constants(level) for level in made}
    users: dict[bytes, list[str]] = {}
    for name, found in constants.items():
        for content in dict.fromkeys(found.values()):
            users.setdefault(content, []).append(name)
    stored: dict[str, bytearray] = {}
    place: dict[bytes, tuple[str, int]] = {}
    for content, names in users.items():
        several = "" if len(names) == len(made) else "".join(f"-{name}" for name in names)
        file = f"weights{several}.bin"
        place[content] = file, len(stored.setdefault(file, bytearray()))
        stored[file] += content
    files = {name: bytes(content) for name, content in stored.items()}
    levels = []
    for level in made:
        places = {offset: place[content] for offset, content in constants[level.name].items()}
        used = [name for name in files if name in {file for file, _ in places.values()}]
        starts = accumulate((len(files[name]) for name in used), initial=0)
        start = dict(zip(used, starts, strict=False))
        moved = {offset: start[file] + inside for offset, (file, inside) in places.items()}
        plan_file, code_file = f"plan-{level.name}.json", f"kernels-{level.name}.so"
        files[plan_file] = _with_weights_at(level.plan, moved).to_json().encode()
        files[code_file] = level.code
        features = level.target.cpu_features
        levels.append(Level(level.name, features, plan_file, tuple(used), code_file))
    return tuple(levels), files


def _constants(level: MadeLevel) -> dict[int, bytes]:
    """A level's constants by their offset in its weights, each filled up to where others start."""
    found = {}
    for tensor in level.plan.tensors:
        if tensor.arena == WEIGHTS:
            size = byte_size(tensor)
            found[tensor.offset] = level.weights[tensor.offset :][: size + -size % ALIGNMENT]
    return found


def _with_weights_at(plan: Plan, moved: Mapping[int, int]) -> Plan:
    """The same plan, whose constants lie at other offsets."""
    tensors = (
        replace(tensor, offset=moved[tensor.offset]) if tensor.arena == WEIGHTS else tensor
        for tensor in plan.tensors
    )
    return replace(plan, tensors=tuple(tensors))
