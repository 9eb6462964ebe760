"""Where Android's SDK and NDK are."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TOOLCHAIN = Path("build", "cmake", "android.toolchain.cmake")


def find_ndk() -> Path | None:
    """The Android NDK; None where there is none.

    It is what ANDROID_NDK_HOME or ANDROID_NDK_ROOT names, or else the newest of the SDK's
    (ANDROID_HOME, ANDROID_SDK_ROOT).
    """
    named = [os.environ.get(name) for name in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT")]
    places = [Path(name) for name in named if name] + of_sdk("ndk")
    return next((place.absolute() for place in places if (place / _TOOLCHAIN).is_file()), None)


def of_sdk(part: str) -> list[Path]:
    """The versions of a part of the Android SDK, the newest first."""
    homes = [os.environ.get(name) for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT")]
    versions = [path for home in homes if home for path in Path(home, part).glob("[0-9]*")]
    return sorted(versions, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])[::-1]
