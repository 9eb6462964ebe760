"""A file a command: parse, call one plain function, print."""

from collections.abc import Callable, Mapping

import typer

from graphopt.commands.android import android_app
from graphopt.commands.bench import bench
from graphopt.commands.compare import compare
from graphopt.commands.compile import compile
from graphopt.commands.design import design
from graphopt.commands.doctor import doctor
from graphopt.commands.eval import eval
from graphopt.commands.explain import explain
from graphopt.commands.heads import heads
from graphopt.commands.inspect import inspect
from graphopt.commands.optimize import optimize
from graphopt.commands.pack import pack
from graphopt.commands.passes import passes_app
from graphopt.commands.profile import profile
from graphopt.commands.reproduce import reproduce
from graphopt.commands.run import run
from graphopt.commands.search import search
from graphopt.commands.sensitivity import sensitivity
from graphopt.commands.tune import tune
from graphopt.commands.unpack import unpack
from graphopt.commands.zoo import zoo_app

ALL: Mapping[str, Callable[..., None] | typer.Typer] = {
    "optimize": optimize,
    "compile": compile,
    "search": search,
    "run": run,
    "eval": eval,
    "compare": compare,
    "bench": bench,
    "inspect": inspect,
    "explain": explain,
    "heads": heads,
    "passes": passes_app,
    "sensitivity": sensitivity,
    "zoo": zoo_app,
    "design": design,
    "reproduce": reproduce,
    "profile": profile,
    "tune": tune,
    "pack": pack,
    "unpack": unpack,
    "doctor": doctor,
    "android": android_app,
}
"""Commands, and groups of them, by name; `graphopt.commands.help` has their order."""

__all__ = ["ALL"]
