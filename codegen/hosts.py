"""The machines that CPU kernels are compiled for: this one, and those that are reached from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from graphopt.errors import UsageError


@dataclass(frozen=True)
class Host:
    """A machine that is compiled for on another.

    Args:
        triple: as LLVM calls it, and as typed after `--host`.
        emulation: as linkers call its format.
        vectors: which of `targets.cpu.VECTOR_UNITS` it has.
        libraries: what kernels need there, by the names that its loader knows.
        closed: its loader looks for symbols only in what a library says that it needs.
    """

    triple: str
    emulation: str
    vectors: str
    libraries: tuple[str, ...]
    closed: bool = False

    def needed(self, runner: str) -> tuple[str, ...]:
        """What a library says that it needs, where its kernels are run by the library `runner`."""
        return (*self.libraries, runner) if self.closed else self.libraries


HOSTS: Mapping[str, Host] = MappingProxyType(
    {
        host.triple: host
        for host in (
            Host("aarch64-linux-gnu", "aarch64linux", "neon", ("libm.so.6", "libc.so.6")),
            Host(
                "aarch64-linux-android", "aarch64linux", "neon", ("libm.so", "libc.so"), closed=True
            ),
        )
    }
)


def check_host(triple: str) -> None:
    """Refuse a machine that nothing is known of; "" is this one.

    Raises:
        InputError: lists those that are known.
    """
    if triple and triple not in HOSTS:
        raise UsageError(
            f"no host is called {triple!r}",
            hint=f"hosts: {', '.join(HOSTS)}; this machine if left out",
        )
