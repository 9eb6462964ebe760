"""graphopt makes multi-person pose models fast on phones: photo in, poses out.

`load` opens a network for photos; `optimize` and `compile` do what the commands of those names do.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# onnxruntime's wheels report to their makers unless told not to before they are first imported; the
# variable reaches every process that graphopt starts, too. A user who sets it decides.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from graphopt.compiler.compile import compile_model as compile
    from graphopt.compiler.options import CompileOptions
    from graphopt.errors import GraphoptError
    from graphopt.optimizer.optimize import optimize
    from graphopt.optimizer.options import OptimizeOptions
    from graphopt.pose.model import FoundPoses, Model, load

    __version__: str

__all__ = [
    "CompileOptions",
    "FoundPoses",
    "GraphoptError",
    "Model",
    "OptimizeOptions",
    "__version__",
    "compile",
    "load",
    "optimize",
]

_WHERE = {
    "__version__": "graphopt.ir.version:VERSION",
    "CompileOptions": "graphopt.compiler.options:CompileOptions",
    "FoundPoses": "graphopt.pose.model:FoundPoses",
    "GraphoptError": "graphopt.errors:GraphoptError",
    "Model": "graphopt.pose.model:Model",
    "OptimizeOptions": "graphopt.optimizer.options:OptimizeOptions",
    "compile": "graphopt.compiler.compile:compile_model",
    "load": "graphopt.pose.model:load",
    "optimize": "graphopt.optimizer.optimize:optimize",
}


def __getattr__(name: str) -> Any:
    """What is offered, imported when it is asked for: `graphopt --help` needs none of it."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _WHERE[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    """What is offered."""
    return sorted({*globals(), *__all__})
