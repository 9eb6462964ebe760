"""The option that fixes the sizes of a network's inputs; many commands share it."""

from typing import Annotated, TypeAlias

from graphopt.display.options import Option, Panel

InputShape: TypeAlias = Annotated[
    tuple[str, ...],
    Option(
        "An input's size, where it is dynamic: NAME:1,3,368,656, or without NAME if there is "
        "only one.",
        Panel.SIZE,
        "[NAME:]SHAPE",
    ),
]
