"""Some tests of kernels once more, on Intel's OpenCL: a compiler of its own, with extensions that
PoCL lacks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from intel_opencl import IntelOpenCl

HERE = Path(__file__).parent


@pytest.mark.intel_opencl
@pytest.mark.parametrize(
    ("file", "tests"),
    [
        ("test_kernels.py", "half_precision_in_arithmetic or multiply_add or as_byte or swish"),
        ("test_int8_opencl.py", "photo or 1x1 or every_function or khronos or saturate"),
        ("test_preparation.py", "kernels_prepare"),
        ("test_decoder.py", "find_the_same and coco18"),
    ],
)
def test_kernels(file: str, tests: str, intel: IntelOpenCl) -> None:
    done = intel.run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("-m", "opencl", "-k", tests, str(HERE / file)),
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "skipped" not in done.stdout
