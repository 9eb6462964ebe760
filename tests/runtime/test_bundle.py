"""Bundles on disk: what is written is what is read, and nothing else is touched."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphopt.errors import InputError
from graphopt.runtime import bundle
from graphopt.runtime.bundle import read_bundle, write_bundle
from graphopt.runtime.plan import FORMAT, BundleTarget, Manifest, Model, Plan

PLAN = Plan(arenas=(), tensors=(), launches=(), inputs={}, outputs={})
FILES = {"plan.json": PLAN.to_json().encode(), "weights.bin": b"1234"}


def manifest(**changes: object) -> Manifest:
    fields: dict[str, object] = {
        "format": FORMAT,
        "graphopt": "0",
        "tvm": "0",
        "target": BundleTarget(name="cpu", kind="cpu", host="", description=""),
        "model": Model(path="", sha256=""),
        "inputs": {},
        "outputs": {},
        "macs": 0,
        "runs": {},
        "files": {},
    }
    return Manifest.from_plain(fields | changes)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "b", manifest(), FILES)
    return tmp_path / "b"


def test_reads_what_was_written(written: Path) -> None:
    found = read_bundle(written)
    assert found.plan == PLAN
    assert found.read("weights.bin") == b"1234"
    assert {name: file.bytes for name, file in found.manifest.files.items()} == {
        name: len(data) for name, data in FILES.items()
    }


def test_replaces_an_older_bundle(written: Path) -> None:
    write_bundle(written, manifest(graphopt="1"), FILES)
    assert read_bundle(written).manifest.graphopt == "1"
    assert [p.name for p in written.parent.iterdir()] == ["b"]


@pytest.mark.parametrize("name", ["plan.json", "weights.bin"])
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"X" + b[1:], lambda b: b""])
def test_damage_is_found(written: Path, name: str, damage: Callable[..., Any]) -> None:
    file = written / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=f"{name} is damaged"):
        read_bundle(written)


def test_a_missing_file_is_found(written: Path) -> None:
    (written / "weights.bin").unlink()
    with pytest.raises(InputError, match="No such file"):
        read_bundle(written)


def test_a_broken_manifest_is_a_sentence(written: Path) -> None:
    (written / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="is damaged: graphopt: Field required"):
        read_bundle(written)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"inputs": {"x": [1, 3, 8, 8]}}, "its manifest's inputs are not its plan's"),
        ({"outputs": {"y": [1]}}, "its manifest's outputs are not its plan's"),
        ({"files": {}}, "does not list plan.json, weights.bin"),
        ({"files": {"a\0b": {"bytes": 1, "sha256": ""}}}, "null byte"),
        ({"macs": "many"}, "macs: "),
        ({"target": 3}, "target: "),
        ({"surprise": 1}, "surprise: "),
    ],
)
def test_a_manifest_that_lies_is_a_sentence(
    written: Path, change: dict[str, object], complaint: str
) -> None:
    file = written / "manifest.json"
    fields = json.loads(file.read_text())
    if change.get("files"):
        change = {"files": fields["files"] | change["files"]}
    file.write_text(json.dumps(fields | change))
    with pytest.raises(InputError, match=complaint) as refused:
        read_bundle(written)
    assert "is damaged" in refused.value.message


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"{" * 100_000])
def test_a_manifest_that_is_no_json(written: Path, content: bytes) -> None:
    (written / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        read_bundle(written)


def test_another_format_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", manifest(format=FORMAT + 1), FILES)
    with pytest.raises(InputError, match=f"bundle format {FORMAT + 1}"):
        read_bundle(tmp_path / "b")


def test_a_folder_that_is_no_bundle_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a bundle"):
        read_bundle(tmp_path)


def test_other_peoples_files_are_never_replaced(written: Path, tmp_path: Path) -> None:
    (written / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"also holds notes\.txt"):
        write_bundle(written, manifest(), FILES)
    folder = tmp_path / "folder"
    folder.mkdir()
    file = tmp_path / "file"
    file.write_text("mine")
    for place in (folder, file):
        with pytest.raises(InputError, match="is not a bundle"):
            write_bundle(place, manifest(), FILES)
    assert file.read_text() == "mine"
    assert (written / "notes.txt").read_text() == "mine"


def test_a_full_disk_leaves_the_old_bundle(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_bundle(written, manifest(graphopt="1"), FILES)
    monkeypatch.undo()
    assert read_bundle(written).manifest.graphopt == "0"
    assert [p.name for p in written.parent.iterdir()] == ["b"]


def test_a_source_that_changed_is_said(tmp_path: Path) -> None:
    source = tmp_path / "net.onnx"
    source.write_bytes(b"one")
    model = Model(path=str(source), sha256=bundle.sha256(b"one"))
    write_bundle(tmp_path / "b", manifest(model=model), FILES)
    assert read_bundle(tmp_path / "b").source() == source
    source.write_bytes(b"two")
    with pytest.raises(InputError, match="is gone or has changed"):
        read_bundle(tmp_path / "b").source()
    source.unlink()
    with pytest.raises(InputError, match="is gone or has changed"):
        read_bundle(tmp_path / "b").source()
