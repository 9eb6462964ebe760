"""Photos from elsewhere than the disk: stdin and the web, fetched into a folder for the moment."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from graphopt.errors import InputError, UsageError

STDIN = "-"
MOST = 1 << 28
"""Bytes of a photo or video that is fetched."""
SILENCE, PATIENCE = 20.0, 300.0
"""Seconds that a server may say nothing for, and that all of it may take."""


@dataclass(frozen=True)
class Sources:
    """Files to look at, and what those are called that were fetched."""

    paths: list[Path]
    names: Mapping[Path, str] = field(default_factory=dict)


@contextmanager
def fetched(
    words: Sequence[str], tell: Callable[[str], None] = lambda _: None
) -> Iterator[Sources]:
    """What a command line names: paths as they are, `-` and URLs as files until the block ends.

    Args:
        words: paths, `-` for a photo on stdin, or URLs (http, https).
        tell: told what is being waited for.

    Raises:
        InputError: a photo cannot be fetched, or is too large.
        UsageError: stdin is named twice, or nothing is piped into it.
    """
    if words.count(STDIN) > 1:
        raise UsageError("stdin (-) can be read once")
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        paths: list[Path] = []
        names: dict[Path, str] = {}
        for number, word in enumerate(words):
            place = Path(folder, str(number))
            if word == STDIN:
                path = place / "stdin"
                chunks = _stdin()
            elif word.lower().startswith(("http://", "https://")):
                tell(f"fetching {word}")
                path = place / _file_name(word)
                chunks = _web(word)
            else:
                paths.append(Path(word))
                continue
            place.mkdir()
            with path.open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)
            names[path] = "stdin" if word == STDIN else word
            paths.append(path)
        yield Sources(paths, names)


def _file_name(url: str) -> str:
    """The last part of a URL's path, where that can be a file's name."""
    try:
        path = unquote(urlsplit(url).path)
    except ValueError:  # whoever fetches it says so
        path = ""
    name = "".join(c for c in Path(path).name if c.isprintable())[-100:]
    return name if name.strip(".") else "photo"


def _stdin() -> Iterator[bytes]:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("-: there is no photo on stdin", hint="graphopt run NETWORK - < photo.jpg")
    yield from _bounded(sys.stdin.buffer, "stdin")


def _bounded(file: IO[bytes], name: str) -> Iterator[bytes]:
    size, end = 0, time.monotonic() + PATIENCE
    while chunk := file.read(1 << 16):
        size += len(chunk)
        if size > MOST:
            raise InputError(f"{name} is larger than {MOST >> 20} MB")
        if name != "stdin" and time.monotonic() > end:
            raise InputError(f"{name} takes longer than {PATIENCE:.0f} seconds")
        yield chunk
    if not size:
        raise InputError(f"{name} is empty")


_HANDLERS = (
    ProxyHandler,
    HTTPHandler,
    HTTPSHandler,
    HTTPDefaultErrorHandler,
    HTTPRedirectHandler,
    HTTPErrorProcessor,
    UnknownHandler,
)
"""The standard library's handlers for the web: without files, data and FTP."""


def _web(url: str) -> Iterator[bytes]:
    from graphopt.ir.version import VERSION

    opener = OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    try:
        request = Request(url, headers={"User-Agent": f"graphopt/{VERSION}"})
        with opener.open(request, timeout=SILENCE) as answer:
            length = answer.headers.get("Content-Length", "")
            if length.isdecimal() and int(length) > MOST:
                raise InputError(f"{url} is larger than {MOST >> 20} MB")
            size = 0
            for chunk in _bounded(answer, url):
                size += len(chunk)
                yield chunk
            if length.isdecimal() and size < int(length):
                raise InputError(f"{url} ended after {size} of {length} bytes")
    # URLError and HTTPError are OSErrors; a URL that is none is a ValueError.
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        code = f"{error.code} " if hasattr(error, "code") else ""
        raise InputError(
            f"{url} cannot be fetched: {code}{reason or type(error).__name__}",
            hint="download it, and name the file",
        ) from error
