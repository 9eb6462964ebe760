"""Records: frozen dataclasses that are written as JSON and read back.

What a program holds and what it writes are one dataclass; pydantic's `TypeAdapter` writes and
reads it. A record's JSON form is an object with its fields in their order: tuples are arrays, None
is null, an enumeration is its value. A field that JSON does not show is `Annotated[…, HIDDEN]`, and
the record's docstring says so. Reading checks types and limits (`Annotated[float, Field(gt=0)]`),
and refuses keys that are no fields. A record that is made in Python is checked by mypy, and by its
own `__post_init__`, which reading runs as well.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

R = TypeVar("R", bound="Record")

HIDDEN = Field(exclude=True)
"""Marks a field that JSON does not show."""


class Record:
    """The base of records, each a frozen dataclass."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def to_json(self, *, indent: int | None = None) -> str:
        """The JSON form; numbers that are not finite are null."""
        return _adapter(type(self)).dump_json(self, indent=indent).decode()

    def to_plain(self, *, exclude_none: bool = False) -> Any:
        """The JSON form as dictionaries and lists, for `json.dumps` and to be part of others."""
        return _adapter(type(self)).dump_python(
            self, mode="json", exclude_none=exclude_none, fallback=_number
        )

    @classmethod
    def from_json(cls: type[R], text: str | bytes) -> R:
        """Read the JSON form.

        Raises:
            ValidationError: of pydantic, for `complaint`.
        """
        record: R = _adapter(cls).validate_json(text)
        return record

    @classmethod
    def from_plain(cls: type[R], value: object) -> R:
        """Read what `to_plain` made, or what a TOML file holds.

        Raises:
            ValidationError: of pydantic, for `complaint`.
        """
        record: R = _adapter(cls).validate_python(value)
        return record


def _number(value: np.generic) -> Any:
    """A NumPy scalar as Python's."""
    return value.item()


def _adapter(kind: type[Record]) -> TypeAdapter[Any]:
    """What writes and reads one kind of record; making it takes longer than using it."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


_ADAPTERS: dict[type[Record], TypeAdapter[Any]] = {}


def complaint(error: ValidationError) -> str:
    """What is wrong with a file that holds no such record: the first finding, without its place."""
    finding = error.errors(include_url=False)[0]
    if finding["type"] == "unexpected_keyword_argument":
        return "Extra inputs are not permitted"
    return finding["msg"].removeprefix("Value error, ")
