"""What is installed is what is here, under one import name; and the README's commands exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import typer

from graphopt.cli import app

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
WINGS = {"graphopt": "graphopt", "passes": "graphopt.passes", "codegen": "graphopt.codegen"}
"""Each top-level folder and its import name."""
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "setuptools"
]


def _packages() -> set[str]:
    """The import name of every folder that is a package."""
    found = set()
    for wing, name in WINGS.items():
        for init in (ROOT / wing).rglob("__init__.py"):
            inside = init.parent.relative_to(ROOT / wing).parts
            linked = wing == "graphopt" and inside[:1] in {("passes",), ("codegen",)}
            if not linked:
                found.add(".".join((name, *inside)))
    return found


def test_every_package_is_listed() -> None:
    assert set(SETUPTOOLS["packages"]) == _packages()


@pytest.mark.parametrize("wing", ["passes", "codegen"])
def test_links_show_the_installed_layout(wing: str) -> None:
    link = ROOT / "graphopt" / wing
    assert link.is_symlink()
    assert link.resolve() == ROOT / wing


@pytest.mark.parametrize("wing", ["passes", "codegen"])
def test_a_second_copy_is_refused(wing: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {wing}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"import graphopt.{wing}, not the bare folder" in done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of the wheel, which is built from a copy: setuptools leaves folders behind."""
    copy = tmp_path_factory.mktemp("source") / "graphopt"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for wing in WINGS:
        shutil.copytree(
            ROOT / wing, copy / wing, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=True
    )
    return set(zipfile.ZipFile(copy / done.stdout.split()[-1]).namelist())


def test_the_wheel_holds_every_module_and_the_data(wheel: set[str]) -> None:
    expected = {"graphopt/py.typed"}
    for wing, name in WINGS.items():
        place = name.replace(".", "/")
        for pattern in ("*.py", "*.toml"):
            for file in (ROOT / wing).rglob(pattern):
                inside = file.relative_to(ROOT / wing)
                if not (wing == "graphopt" and inside.parts[0] in {"passes", "codegen"}):
                    expected.add(f"{place}/{inside.as_posix()}")
    assert "graphopt/pose/skeletons/coco18.toml" in expected
    device = [file for file in (ROOT / "codegen" / "device").glob("[!.]*") if file.is_file()]
    expected |= {f"graphopt/codegen/device/{file.name}" for file in device}
    assert "graphopt/codegen/device/LICENSE" in expected
    assert not any(name.startswith("graphopt/codegen/device/build/") for name in wheel)
    assert expected - wheel == set()


def test_the_wheel_holds_nothing_under_the_bare_names(wheel: set[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"graphopt"}
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def _commands() -> list[list[str]]:
    """Every `graphopt …` in the README's and CONTRIBUTING's shell blocks, as words."""
    found = []
    for page in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
            for line in re.split(r"\n|&&", block.replace("\\\n", " ")):
                words = shlex.split(line, comments=True)
                if words[:1] == ["graphopt"]:
                    found.append(words[1:])
    return found


def test_the_documented_commands_exist() -> None:
    group = typer.main.get_command(app)
    commands = _commands()
    assert len(commands) > 8
    for words in commands:
        command: Any = group
        rest = list(words)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        used = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert used <= known | {"--help"}, f"graphopt {' '.join(words)}"
        assert command is not group or used, f"no such command: graphopt {' '.join(words)}"
