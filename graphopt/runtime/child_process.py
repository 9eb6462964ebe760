"""Python processes that graphopt starts: modules that are installed, never the current folder's.

Python looks for modules in the current folder first where it is given a module (-m) or a program
(-c), and in every relative entry of PYTHONPATH. A folder of downloads may hold a `random.py` there.
Python 3.11 has the option -P against it; this does the same for 3.10.

Needs the standard library alone, as `graphopt.devices.doctor` does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_START = """
import sys
sys.path[:] = [folder for folder in sys.path if folder]
sys.path.append(sys.argv.pop(1))
"""
"""What a child does before it imports anything: `sys` is built in."""

_RUN_MODULE = """
import runpy
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""

_HOME = str(Path(__file__).resolve().parents[2])
"""Where graphopt is; looked at last, for a graphopt that is used without being installed."""


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module in this Python, to be started in `environment`."""
    return [sys.executable, "-c", _START + _RUN_MODULE, _HOME, name, *arguments]


def program(text: str, *arguments: str) -> list[str]:
    """The command that runs a program's text in this Python, to be started in `environment`."""
    return [sys.executable, "-c", _START + text, _HOME, *arguments]


def environment() -> dict[str, str]:
    """This process's variables, without what would bring the current folder back."""
    variables = dict(os.environ)
    if "PYTHONPATH" in variables:
        folders = variables.pop("PYTHONPATH").split(os.pathsep)
        if absolute := [folder for folder in folders if Path(folder).is_absolute()]:
            variables["PYTHONPATH"] = os.pathsep.join(absolute)
    return variables


def run(command: Sequence[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of these commands to its end, without stdin; what it prints is kept.

    Raises:
        subprocess.TimeoutExpired: it took longer than so many seconds.
    """
    return subprocess.run(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
