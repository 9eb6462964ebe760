"""Files and folders that appear whole or not at all, and what is there before."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from graphopt.errors import InputError
from graphopt.ir.files import replacing, whole_folder


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.onnx"
    for text in ("first", "second"):
        with replacing(path) as fresh:
            fresh.write_text(text)
            assert fresh.name == path.name
        assert path.read_text() == text
    assert names(path.parent) == ["out.onnx"]


def test_what_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    path.write_text("old")

    def fail(fresh: Path) -> None:
        fresh.write_text("new")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), replacing(path) as fresh:
        fail(fresh)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["out.onnx"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "real.onnx", tmp_path / "link.onnx"
    for there in (False, True):
        if not link.is_symlink():
            link.symlink_to(target)
        with replacing(link) as fresh:
            fresh.write_text(f"{there}")
        assert link.is_symlink()
        assert target.read_text() == f"{there}"
    assert names(target.parent) == ["real.onnx"]


def test_a_pipe_gets_the_content(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with replacing(pipe) as fresh:
        fresh.write_text("content")
    reader.join(10)
    assert read == ["content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["pipe"]


def test_a_folder_is_no_place_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"), replacing(tmp_path) as fresh:
        fresh.write_text("content")


def test_a_linked_folder_is_replaced_where_it_is(tmp_path: Path) -> None:
    target, link = tmp_path / "real.graphopt", tmp_path / "link.graphopt"
    target.mkdir()
    (target / "old").write_text("")
    link.symlink_to(target)
    with whole_folder(link) as fresh:
        (fresh / "new").write_text("")
    assert link.is_symlink()
    assert names(target) == ["new"]
