"""Whether a class keeps the pass contract (`pass_contract`), looked at when it is loaded."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import traceback
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

from pydantic import TypeAdapter

from graphopt.errors import GraphoptError
from graphopt.optimizer.manual import Option, options_of, type_text
from graphopt.optimizer.pass_contract import AnyPass, Numerics, Pass, PreparedPass, option_text
from graphopt.optimizer.pass_faults import line_of

SECTIONS = ("Rewrite", "Numerics", "Why", "When it skips")
"""The sections of a manual page."""

MOVED = {
    "graphopt.passbase": "graphopt.optimizer.pass_contract",
    "graphopt.graph": "graphopt.ir.graph and graphopt.ir.edit",
    "graphopt.model": "graphopt.ir.onnx_io",
    "graphopt.engine": "graphopt.runtime.engine",
}
"""Where the modules are that passes import, by the names that they had before 0.1.0."""

_NAME = re.compile(r"[\w-]+")
_SCALARS = {"string", "integer", "number", "boolean", "null"}
_ARGUMENTS = {"match": ("graph",), "rewrite": ("graph", "site")}
_ARGUMENTS_PREPARED = {
    "prepare": ("graph", "context"),
    "match": ("graph", "facts"),
    "rewrite": ("graph", "site"),
}


def fault_of(pass_type: type[AnyPass]) -> str | None:
    """How a class breaks the contract, with file and line; None where it keeps it."""
    return next(_faults(pass_type), None)


def _faults(pass_type: type[AnyPass]) -> Iterator[str]:
    """Whatever is wrong; each may be looked at only where those before it are right."""
    name = pass_type.__name__

    def at(member: str) -> str:
        return f"{_line_within(pass_type, member)}: {name}"

    if not issubclass(pass_type, (Pass, PreparedPass)):
        yield f"{at('')} derives from BasePass: derive it from Pass, or from PreparedPass"
    for missing in ("prepare", "match", "rewrite", "numerics"):
        if missing in pass_type.__abstractmethods__:
            yield f"{at('')} does not define {missing}"
    given = getattr(pass_type, "name", None)
    if not isinstance(given, str):
        yield f"{at('name')} has no name: write name = 'my-pass' in it"
    elif not _NAME.fullmatch(given):
        yield f"{at('name')} is named {given!r}: letters, digits, - and _ can stand in a pipeline"
    numerics = inspect.getattr_static(pass_type, "numerics")
    if not isinstance(numerics, (Numerics, property)):
        known = ", ".join(f"Numerics.{n.name}" for n in Numerics)
        yield f"{at('numerics')} has numerics {numerics!r}: one of {known}"
    for flag in ("repeat", "repairs", "needs_images"):
        if not isinstance(inspect.getattr_static(pass_type, flag), (bool, property)):
            yield f"{at(flag)} has a {flag} that is neither True, False nor a property"
    if issubclass(pass_type, Pass) and pass_type.prepare is not Pass.prepare:
        yield f"{at('prepare')} defines prepare: derive it from PreparedPass, whose match gets that"
    prepared = issubclass(pass_type, PreparedPass)
    for method, arguments in (_ARGUMENTS_PREPARED if prepared else _ARGUMENTS).items():
        yield from (f"{at(method)}{fault}" for fault in _signature(pass_type, method, arguments))
    parameters = vars(pass_type).get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        yield f"{at('')} is no frozen dataclass: write @dataclass(frozen=True) above the class"
    yield from (f"{at(key)}: {fault}" for key, fault in _option_faults(pass_type))
    yield from (f"{at('')}: {fault}" for fault in _manual(pass_type))


def _line_within(pass_type: type[AnyPass], member: str) -> str:
    """The file and line of a class, or of what defines a member in its body."""
    place = line_of(pass_type)
    try:
        lines, first = inspect.getsourcelines(pass_type)
        (body,) = ast.parse(textwrap.dedent("".join(lines))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return place
    for part in body.body if isinstance(body, ast.ClassDef) else ():
        targets = [t.id for t in ast.walk(part) if isinstance(t, ast.Name)]
        if member and member in (getattr(part, "name", None), *targets[:1]):
            return f"{place.rpartition(':')[0]}:{max(first, 1) + part.lineno - 1}"
    return place


def _signature(pass_type: type[AnyPass], method: str, arguments: tuple[str, ...]) -> Iterator[str]:
    wanted = f"def {method}(self, {', '.join(arguments)})"
    if isinstance(inspect.getattr_static(pass_type, method), property):
        yield f": its {method} is a property, not {wanted}"
        return
    function = getattr(pass_type, method)
    if not callable(function):
        yield f": its {method} is {function!r}, not {wanted}"
        return
    try:
        inspect.signature(function).bind(None, *arguments)
    except TypeError as error:
        yield f": its {method} cannot be called as {wanted}: {error}"
    except ValueError:  # written in C: nothing can be known
        pass
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        yield f": its {method} is async"
    if method == "rewrite" and inspect.isgeneratorfunction(function):
        yield ": its rewrite is a generator: it must return a Change or a Skip"


def _option_faults(pass_type: type[AnyPass]) -> Iterator[tuple[str, str]]:
    """Options that cannot be read from a pipeline, or written to one."""
    for f in fields(pass_type):
        if f.default_factory is not MISSING:
            yield f.name, f"its option {f.name} has a default_factory: give a default"
    try:
        options = options_of(pass_type)
    except Exception as error:  # a name that is not there, or is no type
        yield "", f"the type of an option is not known: {type(error).__name__}: {error}"
        return
    for option in options.values():
        fault = _unreadable(option)
        if fault:
            yield option.name, f"its option {option.name}: {fault}"


def _unreadable(option: Option) -> str | None:
    kind = type_text(option.type)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(option.type)
        schema = adapter.json_schema()
    except Exception:  # pydantic has a class of its own for each reason
        schema = {"type": "object"}
    if not _is_scalar(schema, schema.get("$defs", {})):
        return f"its type {kind} cannot be read from a pipeline: one word or number can"
    default = option.default
    if default is MISSING or default is None:
        return None
    try:
        again = adapter.validate_strings(option_text(default))
    except ValueError:
        return f"its default {default!r} is no {kind}"
    return None if again == default else f"its default {default!r} is read as {again!r}"


def _is_scalar(schema: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether a JSON schema is of something that a word can stand for."""
    if "$ref" in schema:
        return _is_scalar(known[schema["$ref"].rpartition("/")[2]], known)
    if "anyOf" in schema:
        return any(_is_scalar(part, known) for part in schema["anyOf"])
    return "const" in schema or "enum" in schema or schema.get("type") in _SCALARS


def _manual(pass_type: type[AnyPass]) -> Iterator[str]:
    """A manual page may be one paragraph; one with sections has them all, in their order."""
    text = inspect.cleandoc(pass_type.__doc__ or "")
    there = [s for s in re.findall(r"^(.+):$", text, re.MULTILINE) if s in SECTIONS]
    missing = [s for s in SECTIONS if s not in there]
    if there and missing:
        yield f"its docstring lacks the section {missing[0]}:"
    elif there != sorted(there, key=SECTIONS.index):
        yield f"its docstring's sections are not in the order {', '.join(SECTIONS)}"


def import_fault(error: BaseException, own: str) -> str:
    """Why a module cannot be imported, with file and line, in a sentence.

    Args:
        error: what importing it raised.
        own: what the path of its own file contains: errors that others raise are put down to it.
    """
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    if isinstance(error, GraphoptError):
        return error.message
    # The first frame is the one that imports.
    frames = traceback.extract_tb(error.__traceback__)[1:]
    places = [f for f in frames if own in f.filename] or frames
    places = [f for f in places if "importlib" not in f.filename]
    place = f"{places[-1].filename}:{places[-1].lineno}: " if places else ""
    moved = MOVED.get(getattr(error, "name", None) or "")
    return f"{place}{type(error).__name__}: {error}{f'; it is {moved} now' if moved else ''}"
