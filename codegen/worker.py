"""The compiler as a process of its own, so that a crash inside TVM is an error message.

    python -m graphopt.codegen.worker JOB.json

reads the job, writes its results beside it, and prints an event a line as JSON: `{"phase",
"detail"}` as it goes, `{"error", "hint", "node", "unsupported"}` if it must stop, and
`{"crash"}` where TVM raised.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import onnx

from graphopt.errors import GraphoptError, Unsupported


def main(job_path: Path) -> int:
    """Do the job; 0 when its results are written."""
    # Events must be alone on stdout; whatever TVM prints there goes to stderr.
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**event: object) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    tell(phase="start", detail="")
    import tvm

    from graphopt.codegen.stages import compile_network
    from graphopt.codegen.targets import load_target

    job = json.loads(job_path.read_text())
    try:
        target = load_target(job["target"])
        model = onnx.load(job["model"])
        for index, node in enumerate(model.graph.node):
            node.name = node.name or f"{node.op_type}_{index}"
        result = compile_network(
            model, target, lambda phase, detail="": tell(phase=phase, detail=detail)
        )
    except GraphoptError as error:
        tell(
            error=error.message,
            hint=error.hint,
            node=error.node,
            unsupported=isinstance(error, Unsupported),
        )
        return 1
    except Exception as error:  # TVM raises all kinds; the parent says where it happened
        lines = [line for line in str(error).splitlines() if line.strip()]
        tell(crash=lines[-1].strip() if lines else type(error).__name__)
        return 1
    folder = job_path.parent
    (folder / "plan.json").write_text(result.plan.model_dump_json())
    (folder / "weights.bin").write_bytes(result.weights)
    (folder / result.code_file).write_bytes(result.code)
    description = {
        "tvm": tvm.__version__,
        "code_file": result.code_file,
        "target": {
            "name": target.name,
            "kind": target.kind,
            "cpu_features": target.cpu_features,
            "description": str(tvm.target.Target(target.tvm)),
        },
    }
    (folder / "description.json").write_text(json.dumps(description))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
