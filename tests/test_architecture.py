"""The documentation's pictures of the house are those of the code."""

from __future__ import annotations

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
