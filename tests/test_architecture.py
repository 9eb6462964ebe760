"""The documentation's pictures of the house are those of the code."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def house() -> ModuleType:
    """docs/draw_house.py as a module."""
    spec = importlib.util.spec_from_file_location("draw_house", ROOT / "docs" / "draw_house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_code_of_today(house: ModuleType) -> None:
    page = house.PAGE.read_text(encoding="utf-8")
    assert house.drawn(page) == page, "run python docs/draw_house.py"


def test_every_file_is_listed_once(house: ModuleType) -> None:
    page = house.PAGE.read_text(encoding="utf-8")
    rooms = [room for floor in house.layers("graphopt") for room in floor]
    for room in rooms:
        name = f"{room}/" if room in house.AT_TOP else f"graphopt/{room}"
        assert page.count(f"### `{name}") == 1, room


def test_nothing_but_the_front_door_is_at_the_root() -> None:
    assert sorted(p.name for p in (ROOT / "graphopt").glob("*.py")) == [
        "__init__.py",
        "cli.py",
        "errors.py",
    ]


def test_tests_lie_in_the_rooms_that_they_test() -> None:
    tests = ROOT / "tests"
    folders = {file.parent.relative_to(tests) for file in tests.rglob("test_*.py")}
    others = {Path(name) for name in (".", "android", "benchmarks", "golden")}
    for folder in folders - others:
        assert any((top / folder).is_dir() for top in (ROOT, ROOT / "graphopt")), folder


def test_a_page_without_its_tables_gets_them(house: ModuleType) -> None:
    places = [f"<!-- {name} -->\n<!-- /{name} -->" for name in ("layers", "compiler", "files")]
    drawn = house.drawn("\n".join(["a", *places, "b"]))
    assert drawn.startswith("a\n")
    assert drawn.endswith("\nb")
    assert "floor0 --> floor1" in drawn
    with pytest.raises(LookupError, match="no place for files"):
        house.drawn("\n".join(places[:2]))


LONGEST_FILE = 350
LONGEST_FUNCTION = 60
"""Lines, without the docstring."""
LONGER = {
    "examples/train_demo.py": "one script that gives the demo network from nothing",
}
"""Files that may be longer, and why."""


def test_files_and_functions_are_short() -> None:
    """Tests may be as long as what they test asks for (CONTRIBUTING.md)."""
    tops = ("graphopt", "passes", "codegen", "docs", "examples")
    links = {ROOT / "graphopt" / top for top in tops}
    files = [
        file
        for top in tops
        for file in sorted((ROOT / top).rglob("*.py"))
        if not links & set(file.parents)
    ]
    assert len(files) > 200
    long = {}
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        text = file.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > LONGEST_FILE and name not in LONGER:
            long[name] = lines
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (lines := length(node)) > LONGEST_FUNCTION:
                long[f"{name}:{node.lineno} {node.name}"] = lines
    assert not long


def length(function: ast.FunctionDef) -> int:
    """A function's lines, but for its decorators and docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines
