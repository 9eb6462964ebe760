"""Nothing is sent anywhere: onnxruntime's own reporting is off in all that graphopt runs."""

import os
import subprocess
import sys
from pathlib import Path

RUN = """
import {first}
import onnxruntime
from onnx import parser
model = parser.parse_model(
    '<ir_version:8,opset_import:["":17]> g (float[1,3] x)=>(float[1,3] y) {{y=Relu(x)}}'
)
onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
"""


def written(home: Path, first: str) -> list[str]:
    """The files that a process leaves in an empty home when it opens a session."""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    subprocess.run([sys.executable, "-c", RUN.format(first=first)], env=environment, check=True)
    return [path.name for path in home.rglob("*") if path.is_file()]


def test_a_session_leaves_no_event_database_behind(tmp_path: Path) -> None:
    assert written(tmp_path, "graphopt") == []
