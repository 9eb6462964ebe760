"""graphopt makes multi-person pose models fast on phones: photo in, poses out."""

import os
from importlib.metadata import version

# onnxruntime's wheels report to their makers unless told not to before they are first imported; the
# variable reaches every process that graphopt starts, too. A user who sets it decides.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = version("graphopt")
