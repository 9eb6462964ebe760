"""A file a command: parse, call one plain function, print."""

from graphopt.commands.android import android_app
from graphopt.commands.bench import bench
from graphopt.commands.compare import compare
from graphopt.commands.compile import compile
from graphopt.commands.design import design
from graphopt.commands.doctor import doctor
from graphopt.commands.eval import eval
from graphopt.commands.explain import explain
from graphopt.commands.inspect import inspect
from graphopt.commands.optimize import optimize
from graphopt.commands.pack import pack
from graphopt.commands.passes import passes_app
from graphopt.commands.profile import profile
from graphopt.commands.reproduce import reproduce
from graphopt.commands.run import run
from graphopt.commands.sensitivity import sensitivity
from graphopt.commands.tune import tune
from graphopt.commands.unpack import unpack
from graphopt.commands.zoo import zoo_app

ALL = (
    optimize,
    compile,
    run,
    eval,
    compare,
    bench,
    inspect,
    explain,
    sensitivity,
    design,
    reproduce,
    profile,
    tune,
    pack,
    unpack,
    doctor,
)
"""The commands in the order of `graphopt --help` (`passes`, `android` and `zoo` are groups)."""

__all__ = [
    "ALL",
    "android_app",
    "bench",
    "compare",
    "compile",
    "design",
    "doctor",
    "eval",
    "explain",
    "inspect",
    "optimize",
    "pack",
    "passes_app",
    "profile",
    "reproduce",
    "run",
    "sensitivity",
    "tune",
    "unpack",
    "zoo_app",
]
