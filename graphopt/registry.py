"""Where passes come from: the folder of built-in ones, installed plug-ins, and `--load FILE.py`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from inspect import isabstract
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from graphopt import passes
from graphopt.errors import InputError
from graphopt.passbase import Pass

GROUP = "graphopt.passes"
"""Entry points of this group name a pass class, or a module that defines some."""

PassType: TypeAlias = type[Pass[Any]]


def find_passes(files: Sequence[Path] = ()) -> dict[str, PassType]:
    """Every pass by name, in alphabetical order.

    Args:
        files: Python files to load passes from, besides the built-in and installed ones.

    Raises:
        InputError: when a file or plug-in cannot be imported or holds no pass, or when two passes
            have the same name.
    """
    found: dict[str, tuple[PassType, str]] = {}
    for pass_type, origin in _all(files):
        known, where = found.setdefault(pass_type.name, (pass_type, origin))
        if known is not pass_type:
            raise InputError(
                f"two passes are named {pass_type.name}: one from {where}, one from {origin}",
                hint="rename one, or leave out --load or the plug-in",
            )
    return {name: found[name][0] for name in sorted(found)}


def _all(files: Sequence[Path]) -> Iterator[tuple[PassType, str]]:
    for info in pkgutil.iter_modules(passes.__path__):
        module = importlib.import_module(f"{passes.__name__}.{info.name}")
        for pass_type in _defined_in(module):
            yield pass_type, f"passes/{info.name}.py"
    for point in entry_points(group=GROUP):
        origin = f"plug-in {point.dist.name}" if point.dist else f"entry point {point.name}"
        try:
            loaded = point.load()
        except Exception as error:
            raise InputError(
                f"{origin} cannot be imported: {error}", hint="repair or uninstall it"
            ) from error
        yield from _held_by(loaded, origin)
    for file in dict.fromkeys(file.resolve() for file in files):
        yield from _held_by(_import_file(file), str(file))


def _held_by(loaded: object, origin: str) -> Iterator[tuple[PassType, str]]:
    if isinstance(loaded, type) and issubclass(loaded, Pass):
        held = [loaded]
    else:
        held = list(_defined_in(loaded)) if isinstance(loaded, ModuleType) else []
    if not held:
        raise InputError(
            f"{origin} defines no pass",
            hint="a pass is a dataclass derived from graphopt.passbase.Pass",
        )
    for pass_type in held:
        yield pass_type, origin


def _defined_in(module: ModuleType) -> Iterator[PassType]:
    for value in vars(module).values():
        # The module first: Python 3.10 takes `list[int]` for a type, and issubclass refuses it.
        if (
            getattr(value, "__module__", None) == module.__name__
            and isinstance(value, type)
            and issubclass(value, Pass)
            and not isabstract(value)
            and not value.__name__.startswith("_")  # what a pass's `prepare` returns
        ):
            yield value


def _import_file(file: Path) -> ModuleType:
    # A name of its own for each path: two files of the same name must not replace each other.
    name = f"graphopt_loaded_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise InputError(f"{file} is no Python file to load passes from")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being made
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    return module
