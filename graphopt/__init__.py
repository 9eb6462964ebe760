"""graphopt makes multi-person pose models fast on phones: photo in, poses out."""

import os
from typing import TYPE_CHECKING

# onnxruntime's wheels report to their makers unless told not to before they are first imported; the
# variable reaches every process that graphopt starts, too. A user who sets it decides.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name):
        """`__version__`, looked up when asked for: that takes an eighth of `graphopt --help`."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version("graphopt")
