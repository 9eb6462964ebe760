"""How `--help` is laid out: panels of commands and of options, and an example for each command."""

from __future__ import annotations

from typing import Any

import typer.core

from graphopt.commands import grammar

COMMANDS = {
    "From a network to poses": ("optimize", "compile", "run"),
    "Measure": ("bench", "eval", "compare"),
    "Look inside": ("inspect", "explain", "passes", "sensitivity"),
    "Networks": ("zoo", "design", "reproduce", "pack", "unpack"),
    "This machine, and phones": ("doctor", "tune", "profile", "android"),
}
"""What `graphopt --help` shows together."""

OPTIONS = {
    "Which passes": ("preset", "passes", "skip_passes", "load", "chosen", "after", "node"),
    "Photos": ("calib", "calib_photos", "max_shift", "images", "annotations", "limit"),
    "Pruning and training": (
        *("compression", "speedup", "latency_ms", "max_ap_drop", "sensitivity", "distill"),
        *("ratio", "block"),
    ),
    "What it is for": (
        *("target", "host", "device", "runner", "rpc", "format", "require_full_gpu"),
        *("fp16", "fp16_arithmetic", "tuning"),
    ),
    "Input size and threads": ("input_shape", "height", "threads", "engine"),
    "Checks": ("verify", "on_fail"),
    "How the network sees photos": (
        *("skeleton", "maps", "color", "mean", "scale", "pad_value"),
        *("max_photo", "layout", "order"),
    ),
    "People": ("post", "max_people", "max_peaks", "min_score", "track", "smooth", "each"),
    "Measurement": (
        *("vs", "original", "per_layer", "photo", "num_runs", "warmup_runs", "post_processing"),
        *("network", "full"),
    ),
    "Network": ("gmacs", "depths", "backbone", "refinements", "stages", "build"),
    "What is written": (*("output", "report", "force", "json", "plot"),),
}
"""Options that are shown together, by the names of their parameters."""

EXAMPLES = {
    "optimize": "graphopt optimize pose.onnx --calib photos/",
    "compile": "graphopt compile pose.opt.onnx -o pose.graphopt --target cpu",
    "run": "graphopt run pose.graphopt photo.jpg -o poses.png",
    "bench": "graphopt bench pose.graphopt --vs onnxruntime --per-layer",
    "eval": "graphopt eval pose.graphopt --images val2017/ --annotations keypoints.json",
    "compare": "graphopt compare pose.onnx pose.opt.onnx --images photos/",
    "inspect": "graphopt inspect pose.onnx pose.opt.onnx --device adreno-640",
    "explain": "graphopt explain pose.onnx --pass undilate-conv",
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

_PANEL_OF = {name: panel for panel, names in OPTIONS.items() for name in names}


class Command(grammar.Command):
    """A command whose help is laid out as this module says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for param in self.params:
            if isinstance(param, typer.core.TyperOption):
                param.rich_help_panel = param.rich_help_panel or _PANEL_OF.get(param.name or "")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Help with paragraphs for the terminal to wrap; what looks like rich's markup is none."""
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
