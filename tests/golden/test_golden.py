"""What passes and the compiler make of small networks is what the golden files say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graphopt.optimizer.registry import find_passes

Check = Callable[[Path, str], None]

HERE = Path(__file__).resolve().parent
CASES = sorted(HERE.glob("*/*.onnxtxt"))
PLANS = sorted(HERE.glob("plans/*.txt"))


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", CASES, ids=_name)
def test_pass(path: Path, optimised: Callable[[Path], str], golden: Check) -> None:
    golden(path, optimised(path))


@pytest.mark.parametrize("path", PLANS, ids=_name)
def test_plan_and_kernels(
    path: Path, compiled: Callable[[Path], tuple[str, str]], golden: Check
) -> None:
    plan, kernels = compiled(path)
    golden(path, plan)
    file = HERE / "opencl" / f"{path.stem}.cl"
    assert kernels or not file.exists(), f"{path} does not say that it has kernels"
    if kernels:
        golden(file, kernels)


def test_every_pass_has_cases() -> None:
    assert {path.parent.name for path in CASES} == {*find_passes()}


def test_all_kernels_belong_to_a_plan() -> None:
    assert {path.stem for path in HERE.glob("opencl/*")} <= {path.stem for path in PLANS}


# --- comparing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        ("rms=0.9831", "rms=0.9829", True),
        ("rms=0.9831", "rms=0.9731", False),
        ("{1, 0.25}", "{1, 0.25, 0.5}", False),
        ("3 stages", "2 stages", False),
        ("a = Relu (x)", "a = Elu (x)", False),
        ("probe=-0.5", "probe=0.5", False),
    ],
)
def test_only_rounding_is_forgiven(
    tmp_path: Path, compare: Callable[..., bool], expected: str, found: str, same: bool
) -> None:
    path = tmp_path / "case.txt"
    path.write_text(expected)
    if same:
        assert not compare(path, found, update=False)
    else:
        with pytest.raises(pytest.fail.Exception) as failure:
            compare(path, found, update=False)
        assert f"\n-{expected}\n+{found}\n" in str(failure.value)
        assert "--update-golden" in str(failure.value)


def test_a_missing_file_fails_and_is_written(tmp_path: Path, compare: Callable[..., bool]) -> None:
    path = tmp_path / "new" / "case.txt"
    with pytest.raises(pytest.fail.Exception, match=r"\+some text"):
        compare(path, "some text", update=False)
    assert compare(path, "some text", update=True)
    assert path.read_text() == "some text"
    assert not compare(path, "some text", update=True)
