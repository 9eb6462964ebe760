"""Options of the commands `design` and `reproduce`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from graphopt.display.options import Option, Panel

Predicted: TypeAlias = Annotated[
    str, Option("What times are predicted for.", Panel.TARGET, "NAME|F.toml")
]


@dataclass(frozen=True, kw_only=True)
class DesignOptions:
    """Which networks are made deeper, and at which cost."""

    gmacs: Annotated[float, Option("10^9 multiply-adds at 368x368.", Panel.NETWORK, "G", min=0.1)]
    depths: Annotated[str, Option("Convolutions of the backbone.", Panel.NETWORK, "A,B")] = (
        "24,36,72,147"
    )
    backbone: Annotated[str, Option("What is made deeper: resnet50.", Panel.NETWORK)] = "resnet50"
    refinements: Annotated[
        int, Option("Stages after the initial one.", Panel.NETWORK, "N", min=0, max=6)
    ] = 1
    device: Predicted = "adreno-640"


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """What the paper's figures are put beside."""

    device: Predicted = "adreno-640"
    network: Annotated[
        tuple[Path, ...],
        Option("fig3: a network of yours as well; may be repeated.", Panel.MEASUREMENT, "IN.onnx"),
    ] = ()
    num_runs: Annotated[int, Option("postprocessing: rounds.", Panel.MEASUREMENT, min=1)] = 20
