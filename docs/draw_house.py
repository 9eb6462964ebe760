"""Draw the house into architecture.md: the layers from import-linter's configuration, and what is
in each file from its docstring.

    python docs/draw_house.py

A test says when the page is out of date.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
AT_TOP = ("passes", "codegen")
"""Rooms whose folders stand beside `graphopt/`, not in it."""


def layers(container: str) -> list[list[str]]:
    """The rooms of a package from top to bottom; those of one floor may not import each other."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for contract in config["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers" and contract["containers"] == [container]:
            return [[room.strip() for room in floor.split("|")] for floor in contract["layers"]]
    raise LookupError(f"pyproject.toml has no layers for {container}")


def diagram(floors: Sequence[Sequence[str]]) -> Iterator[str]:
    """The layers as a Mermaid flow chart."""
    yield "```mermaid"
    yield "flowchart TD"
    for number, floor in enumerate(floors):
        yield f'    floor{number}["{" · ".join(floor)}"]'
    for number in range(len(floors) - 1):
        yield f"    floor{number} --> floor{number + 1}"
    yield "```"


def summary(file: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    first = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=[^.])\. ", first)[0].rstrip(".")


def listing(room: str) -> Iterator[str]:
    """A room's heading, and a line for each file and folder in it."""
    folder = ROOT / room if room in AT_TOP else ROOT / "graphopt" / room
    name = folder.relative_to(ROOT).as_posix()
    if not folder.is_dir():
        yield f"### `{name}.py`\n\n{summary(folder.with_suffix('.py'))}.\n"
        return
    yield f"### `{name}/`\n\n{summary(folder / '__init__.py')}.\n"
    yield "| file | what it is |\n|---|---|"
    for file in sorted(folder.rglob("*.py")):
        if file.name != "__init__.py":
            said = summary(file).replace("|", "\\|")
            yield f"| `{file.relative_to(folder).as_posix()}` | {said} |"
    yield ""


def drawn(page: str) -> str:
    """The page with everything between its markers drawn afresh."""
    floors = layers("graphopt")
    parts = {
        "layers": "\n".join(diagram(floors)),
        "compiler": "\n".join(diagram(layers("graphopt.codegen"))),
        "files": "\n".join(line for floor in floors for room in floor for line in listing(room)),
    }
    for name, text in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        head, mark, rest = page.partition(begin)
        if not mark or end not in rest:
            raise LookupError(f"the page has no place for {name}: {begin} {end}")
        page = f"{head}{begin}\n\n{text.strip()}\n\n{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
