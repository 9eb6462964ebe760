"""What a search has done so far, in a file: a stopped search goes on, and does nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError, InputError
from graphopt.ir.files import replacing

FILE = "search.json"
FAILED = "failed"
"""The entry of what could not be done: why not, a sentence."""


class Notebook:
    """Results by name, each written as soon as it is there.

    Args:
        folder: where the file is.
        owner: digest of all that the results depend on.

    Raises:
        InputError: the file is damaged, or another search's.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self._path = folder / FILE
        self._owner = owner
        self._entries: dict[str, Any] = {}
        if not self._path.exists():
            return
        try:
            written = json.loads(self._path.read_text(encoding="utf-8"))
            self._entries, found = dict(written["entries"]), written["owner"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(
                f"{self._path} cannot be read as a search's results",
                hint="remove it, or name another folder with -o",
            ) from None
        if found != owner:
            raise InputError(
                f"{folder} holds the search of another network, other photos or other options",
                hint="remove it, or name another folder with -o",
            )

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def once(self, name: str, work: Callable[[], Any]) -> Any:
        """The result of that name: what was written, or what the work gives now.

        Work that ends with a `GraphoptError` is not tried again: its result is why it failed, in
        a dictionary of one entry, `FAILED`.

        Args:
            name: of the result.
            work: gives something that JSON holds.
        """
        if name not in self._entries:
            try:
                result = work()
            except GraphoptError as error:
                result = {FAILED: error.message}
            # As it is read again: tuples are lists.
            self._entries[name] = json.loads(json.dumps(result))
            self._write()
        return self._entries[name]

    @classmethod
    def apart(cls, folder: Path, owner: str) -> Path:
        """The folder, or one beside it where that holds another search."""
        try:
            cls(folder, owner)
        except InputError:
            return folder.with_name(f"{folder.name}-{owner[:8]}")
        return folder

    def _write(self) -> None:
        text = json.dumps({"owner": self._owner, "entries": self._entries}, indent=1)
        with replacing(self._path) as fresh:
            fresh.write_text(text + "\n", encoding="utf-8")
