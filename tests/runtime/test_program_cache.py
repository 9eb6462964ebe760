"""OpenCL programs come from pyopencl's cache, and a damaged cache does no harm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.codegen.jobs.roofline_kernels import make_bundle
from graphopt.codegen.targets import load_target
from graphopt.errors import InputError
from graphopt.runtime.open import open_bundle

pytestmark = pytest.mark.opencl


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle, for a driver that keeps no programs itself."""
    from pyopencl import characterize

    monkeypatch.setattr(characterize, "has_src_build_cache", lambda device: False)
    monkeypatch.delenv("PYOPENCL_CACHE_FAILURE_FATAL", raising=False)
    make_bundle(load_target("opencl"), tmp_path / "bundle")
    return tmp_path / "bundle"


def _works(bundle: Path) -> bool:
    return bool(np.all(np.greater(open_bundle(bundle).run({})["sums"], 0)))


def test_programs_are_kept_and_broken_ones_made_again(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert _works(bundle)
    (binary,) = cache.glob("pyopencl/*/*/binary")
    assert _works(bundle)
    for junk in (b"", b"junk"):
        binary.write_bytes(junk)
        binary.with_name("info").write_bytes(junk)
        assert _works(bundle)


def test_a_cache_that_cannot_be_written_is_done_without(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert _works(bundle)


def test_a_cache_that_pyopencl_cannot_do_without_is_a_sentence(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyopencl

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/nowhere/.cache/pytools")

    monkeypatch.setattr(pyopencl, "Kernel", refuse)
    with pytest.raises(InputError, match="Permission denied") as caught:
        open_bundle(bundle)
    assert "XDG_CACHE_HOME" in str(caught.value)
