"""Options of the command `zoo build`."""

from dataclasses import dataclass
from typing import Annotated

from graphopt.display.options import Option, Panel


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a published network is built; what is left out is as published."""

    input_shape: Annotated[
        str | None, Option("The input's size, if not the usual one.", Panel.SIZE, "1,3,368,656")
    ] = None
    stages: Annotated[int | None, Option("Of OpenPose.", Panel.NETWORK, "N")] = None
    refinements: Annotated[
        int | None, Option("Stages after the initial one.", Panel.NETWORK, "N")
    ] = None
