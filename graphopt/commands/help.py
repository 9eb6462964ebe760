"""How `--help` is laid out: panels of commands and of options, and an example for each command."""

from __future__ import annotations

from typing import Any

import typer.core

from graphopt.commands import grammar
from graphopt.display.options import Panel

COMMANDS = {
    "From a network to poses": ("optimize", "search", "compile", "run"),
    "Measure": ("bench", "eval", "compare"),
    "Look inside": ("inspect", "explain", "heads", "passes", "sensitivity"),
    "Networks": ("zoo", "design", "reproduce", "pack", "unpack"),
    "This machine, and phones": ("doctor", "tune", "profile", "android"),
}
"""What `graphopt --help` shows together."""

OPTIONS = {
    Panel.PASSES: ("chosen",),
    Panel.TARGET: ("device", "runner", "rpc", "format"),
    Panel.MEASUREMENT: ("post_processing", "full"),
    Panel.NETWORK: ("build",),
    Panel.WRITTEN: ("output", "report", "json", "dump_dir", "force", "plot", "raw"),
}
"""Panels of the options outside the dataclasses, by the names of their parameters."""

EXAMPLES = {
    "optimize": "graphopt optimize pose.onnx --calib photos/ --speedup 2",
    "search": "graphopt search pose.onnx --calib photos/ --pick max-ap-drop=0.01",
    "compile": "graphopt compile pose.opt.onnx -o pose.graphopt --target cpu",
    "run": "graphopt run pose.graphopt photo.jpg -o poses.png",
    "bench": "graphopt bench pose.graphopt --vs onnxruntime --per-layer",
    "eval": "graphopt eval pose.graphopt --images val2017/ --annotations keypoints.json",
    "compare": "graphopt compare pose.onnx pose.opt.onnx --images photos/",
    "inspect": "graphopt inspect pose.onnx pose.opt.onnx --device adreno-640",
    "explain": "graphopt explain pose.onnx --pass undilate-conv",
    "heads": "graphopt heads pose.onnx",
    "passes list": "graphopt passes list",
    "passes show": "graphopt passes show undilate-conv",
    "sensitivity": "graphopt sensitivity pose.onnx --calib photos/ --plot losses.svg",
    "zoo list": "graphopt zoo list",
    "zoo build": "graphopt zoo build lightweight-openpose -o start.onnx",
    "design": "graphopt design --gmacs 16 --depths 36,72 --device adreno-640",
    "reproduce": "graphopt reproduce table2",
    "pack": "graphopt pack pruned.onnx -o packed.onnx --fp16",
    "unpack": "graphopt unpack packed.onnx -o pruned.onnx",
    "doctor": "graphopt doctor",
    "tune": "graphopt tune pose.opt.onnx --target cpu",
    "profile": "graphopt profile -o here.toml",
    "android build": "graphopt android build pose.graphopt -o phone/",
}
"""A line to start from, for each command."""

_PANEL_OF = {name: panel.value for panel, names in OPTIONS.items() for name in names}


class Command(grammar.Command):
    """A command whose help is laid out as this module says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for param in self.params:
            if isinstance(param, typer.core.TyperOption):
                param.rich_help_panel = param.rich_help_panel or _PANEL_OF.get(param.name or "")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Help whose paragraphs the terminal wraps, without reading markup in its text."""
        from rich.markup import escape

        paragraphs = (self.help or "").split("\n\n")
        self.help = escape("\n\n".join(" ".join(part.split()) for part in paragraphs))
        params: list[Any] = self.params
        for param in params:
            param.help = escape(param.help or "")
        super().format_help(ctx, formatter)


def epilog(command: str) -> str:
    """What stands below the options."""
    return f"Example:\n\n{EXAMPLES[command]}"
