"""Parts that a machine promises to have: tests fail where one is missing, and are not skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parent / "fixtures"
MODULE = 'import pytest\npytest.importorskip("nothing_such", reason="PyTorch is not installed")\n'
TESTS = """import pytest
def test_one(): pytest.skip("no Oclgrind here")
@pytest.mark.xfail
def test_two(): assert False
"""


@pytest.mark.parametrize(
    ("required", "complaint"),
    [
        ("", ""),
        ("emulator", ""),
        ("PyTorch, emulator", "PyTorch is not installed, and GRAPHOPT_REQUIRE names PyTorch"),
        ("Oclgrind", "no Oclgrind here, and GRAPHOPT_REQUIRE names Oclgrind"),
    ],
)
def test_a_missing_part_that_is_required_is_a_failure(
    tmp_path: Path, required: str, complaint: str
) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["required_parts"]\n')
    (tmp_path / "test_module.py").write_text(MODULE)
    (tmp_path / "test_each.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", tmp_path],
        env=os.environ | {"GRAPHOPT_REQUIRE": required, "PYTHONPATH": str(FIXTURES)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert bool(done.returncode) == bool(complaint), done.stdout
    assert complaint in done.stdout
