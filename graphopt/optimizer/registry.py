"""Where passes come from: the folder of built-in ones, installed plug-ins, and `--load FILE.py`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from graphopt.errors import InputError
from graphopt.ir.records import Record
from graphopt.optimizer.contract_check import fault_of, import_fault
from graphopt.optimizer.pass_contract import AnyPass, BasePass

GROUP = "graphopt.passes"
"""Entry points of this group name a pass class, or a module that defines some."""

PassType: TypeAlias = type[AnyPass]


@dataclass(frozen=True)
class Broken(Record):
    """A plug-in, a file, or a class of one, that there are no passes from."""

    names: tuple[str, ...]
    """Names of the passes that it was to give, as far as known."""
    origin: str
    """The plug-in or file."""
    reason: str
    """Why, with file and line."""

    def __str__(self) -> str:
        return f"{self.origin} is broken: {self.reason}"


class Passes(dict[str, PassType]):
    """Passes by name, in alphabetical order, and what was to give some and cannot."""

    broken: tuple[Broken, ...] = ()


def find_passes(files: Sequence[Path] = ()) -> Passes:
    """Every pass by name, in alphabetical order.

    A plug-in or file that cannot be imported or breaks the contract stops only itself: it is logged
    once, and listed under `broken`.

    Args:
        files: Python files to load passes from, besides the built-in and installed ones.

    Raises:
        InputError: when there is no such file, or a pass of one has the name of another pass.
    """
    found: dict[str, tuple[PassType, str]] = {}
    broken: list[Broken] = []
    for held, origin, of_user in _all(files):
        if isinstance(held, Broken):
            broken.append(held)
            continue
        known, where = found.setdefault(held.name, (held, origin))
        if known is held:
            continue
        clash = f"two passes are named {held.name}: one from {where}, one from {origin}"
        if of_user:
            raise InputError(clash, hint="rename one, or leave out --load or the plug-in")
        broken.append(Broken((), origin, clash))
    for problem in broken:
        _say(str(problem))
    passes_ = Passes({name: found[name][0] for name in sorted(found)})
    passes_.broken = tuple(broken)
    return passes_


@cache
def _say(problem: str) -> None:
    """Log a problem once, which by default writes it to stderr."""
    logging.getLogger("graphopt").warning("graphopt: %s", problem)


def _all(files: Sequence[Path]) -> Iterator[tuple[PassType | Broken, str, bool]]:
    """Each pass with where it is from, and whether the user named that file."""
    # By name, as those of others: nothing here knows which passes there are.
    built_in = importlib.import_module("graphopt.passes")
    for info in pkgutil.iter_modules(built_in.__path__):
        module = importlib.import_module(f"{built_in.__name__}.{info.name}")
        for pass_type in _defined_in(module):
            yield pass_type, f"passes/{info.name}.py", False
    for point in entry_points(group=GROUP):
        for held in plugged_in(point):
            yield held, _origin(point), False
    for file in dict.fromkeys(file.resolve() for file in files):
        if not file.is_file() or file.suffix != ".py":
            raise InputError(f"{file} is no Python file to load passes from")
        for held in _checked(partial(_import_file, file), str(file), str(file), ()):
            yield held, str(file), True


def plugged_in(point: EntryPoint) -> Iterator[PassType | Broken]:
    """The passes of a plug-in that keep the contract; what is broken in place of the others."""
    yield from _checked(
        point.load, point.module.replace(".", os.sep), _origin(point), (point.name,)
    )


def _origin(point: EntryPoint) -> str:
    return f"plug-in {point.dist.name}" if point.dist else f"entry point {point.name}"


def _checked(
    load: Callable[[], object], own: str, origin: str, names: tuple[str, ...]
) -> Iterator[PassType | Broken]:
    """The passes that keep the contract; what is broken in place of the others."""
    try:
        loaded = load()
    except (Exception, SystemExit) as error:
        yield Broken(names, origin, f"it cannot be imported: {import_fault(error, own)}")
        return
    if isinstance(loaded, type) and issubclass(loaded, BasePass):
        held = [loaded]
    else:
        held = list(_defined_in(loaded)) if isinstance(loaded, ModuleType) else []
    if not held:
        reason = (
            "it defines no pass: a dataclass derived from graphopt.optimizer.pass_contract.Pass"
        )
        yield Broken(names, origin, reason)
    for pass_type in held:
        fault = fault_of(pass_type)
        given = getattr(pass_type, "name", None)
        known = (given,) if isinstance(given, str) else names
        yield Broken(known, origin, fault) if fault else pass_type


def _defined_in(module: ModuleType) -> Iterator[PassType]:
    """Its passes, and abstract classes that no other derives from: those are unfinished ones."""
    found = [
        value
        for value in vars(module).values()
        # The module first: Python 3.10 takes `list[int]` for a type, and issubclass refuses it.
        if getattr(value, "__module__", None) == module.__name__
        and isinstance(value, type)
        and issubclass(value, BasePass)
    ]
    for pass_type in dict.fromkeys(found):
        is_base = any(issubclass(other, pass_type) for other in found if other is not pass_type)
        if not (isabstract(pass_type) and is_base):
            yield pass_type


def _import_file(file: Path) -> ModuleType:
    # A name of its own for each path: two files of the same name must not replace each other.
    name = f"graphopt_loaded_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # as for every .py file
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being made
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
