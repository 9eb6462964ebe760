"""Sets and maps of nodes and tensors, each of which is only itself.

`onnx_graphsurgeon` compares nodes and tensors by what they hold, and cannot hash them. What stands
here compares by identity, and holds the objects, so that none of them is taken for one that was
there before it. All of it is iterated in the order in which it was filled.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, MutableMapping
from typing import TypeVar

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class IdentitySet(Collection[T]):
    """Objects, each at most once."""

    __slots__ = ("_held",)

    def __init__(self, objects: Iterable[T] = ()) -> None:
        self._held = {id(held): held for held in objects}

    def __contains__(self, wanted: object) -> bool:
        return id(wanted) in self._held

    def __iter__(self) -> Iterator[T]:
        return iter(self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdentitySet) and self._held.keys() == other._held.keys()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __le__(self, other: IdentitySet[T]) -> bool:
        return self._held.keys() <= other._held.keys()

    def __or__(self, other: Iterable[T]) -> IdentitySet[T]:
        united = IdentitySet(self)
        united.update(other)
        return united

    def __and__(self, other: IdentitySet[T]) -> IdentitySet[T]:
        return IdentitySet(held for held in self if held in other)

    def __sub__(self, other: IdentitySet[T]) -> IdentitySet[T]:
        return IdentitySet(held for held in self if held not in other)

    def discard(self, old: T) -> None:
        """Leave an object out; nothing happens where it is not there."""
        self._held.pop(id(old), None)

    def add(self, fresh: T) -> None:
        """Take in an object; nothing happens where it is there."""
        self._held[id(fresh)] = fresh

    def update(self, fresh: Iterable[T]) -> None:
        """Take in several objects."""
        self._held.update((id(one), one) for one in fresh)


class IdentityMap(MutableMapping[K, V]):
    """Values, by the object that each belongs to."""

    __slots__ = ("_held",)

    def __init__(self, entries: Iterable[tuple[K, V]] = ()) -> None:
        self._held = {id(key): (key, value) for key, value in entries}

    def __getitem__(self, key: K) -> V:
        return self._held[id(key)][1]

    def __setitem__(self, key: K, value: V) -> None:
        self._held[id(key)] = key, value

    def __delitem__(self, key: K) -> None:
        del self._held[id(key)]

    def __contains__(self, key: object) -> bool:
        return id(key) in self._held

    def __iter__(self) -> Iterator[K]:
        return (key for key, _ in self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, IdentityMap)
            and self._held.keys() == other._held.keys()
            and all(self[key] == other[key] for key in self)
        )

    __hash__ = None  # type: ignore[assignment]  # it changes
