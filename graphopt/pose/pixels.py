"""A photo's pixels as kernels read them: where Pillow has them, where it says where that is."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pixels_of(photo: Image.Image, size: int) -> NDArray[np.uint8]:
    """Pixels row by row, one behind the other: not to be written to.

    Args:
        photo: RGB.
        size: bytes of a pixel: 3, or 4, of which the last one counts for nothing. Pillow has 4;
            where it shows them (as an Arrow array, since version 11.2), none are copied.

    Returns:
        [height * width * size]; it keeps the photo's memory alive.
    """
    if size == 3:
        return np.asarray(photo).reshape(-1)
    try:
        shown = np.asarray(_Shown(photo))
    except (AttributeError, ValueError):  # an older Pillow; a photo in several pieces of memory
        shown = np.frombuffer(photo.tobytes("raw", "RGBX"), np.uint8)
    return shown


class _ArrowArray(ctypes.Structure):
    """`struct ArrowArray` of Arrow's C data interface."""


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]

_content = ctypes.pythonapi.PyCapsule_GetPointer
_content.restype, _content.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class _Shown:
    """The memory of a photo, as NumPy asks for it."""

    def __init__(self, photo: Image.Image) -> None:
        photo.load()
        # The capsule holds on to the memory.
        _, self._capsule = photo.__arrow_c_array__()
        pixels = _ArrowArray.from_address(_content(self._capsule, b"arrow_array"))
        (numbers,) = pixels.children[: pixels.n_children]
        width, height = photo.size
        if numbers.contents.length != 4 * width * height or pixels.offset:
            raise ValueError("not four numbers a pixel")
        self.__array_interface__ = {
            "version": 3,
            "shape": (4 * width * height,),
            "typestr": "|u1",
            "data": (numbers.contents.buffers[1], False),
        }
