"""Eight threads with frames of their own on one device runner: does each get its own people?

    python take_turns.py LIBGRAPHOPT.SO BUNDLE PICTURE...

Prints nothing when they do.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROUNDS, MOST, PERSON = 4, 32, 8 + 64 * 12
"""Times that each thread looks at its frame; room for people; bytes of a graphopt_person."""


def main(library: Path, bundle: Path, pictures: list[Path]) -> None:
    graphopt = ctypes.CDLL(str(library))
    handle, error = ctypes.c_void_p(), ctypes.create_string_buffer(512)
    opened = graphopt.graphopt_open(bytes(bundle), None, 2, ctypes.byref(handle), error)
    assert opened == 0, error.value
    frames = [np.asarray(Image.open(picture).convert("RGB")) for picture in pictures]

    def look(frame: NDArray[np.uint8]) -> bytes:
        height, width, _ = frame.shape
        people, count = ctypes.create_string_buffer(MOST * PERSON), ctypes.c_int()
        reason = ctypes.create_string_buffer(512)
        start, stride = frame.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(3 * width)
        room = (people, MOST, ctypes.byref(count), reason)
        status = graphopt.graphopt_run_rgb(handle, start, width, height, stride, *room)
        assert status == 0, reason.value
        return people.raw[: count.value * PERSON]

    expected = [look(frame) for frame in frames]
    assert len(set(expected)) == len(frames)
    ready = threading.Barrier(len(frames))

    def looks(frame: NDArray[np.uint8]) -> list[bytes]:
        ready.wait()
        return [look(frame) for _ in range(ROUNDS)]

    with ThreadPoolExecutor(len(frames)) as pool:
        for number, found in enumerate(pool.map(looks, frames)):
            assert found == [expected[number]] * ROUNDS, f"thread {number} got another's people"
    graphopt.graphopt_close(handle)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
