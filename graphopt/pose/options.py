"""Options that tell how a network sees photos; many commands share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from graphopt.display.options import Option, Panel


@dataclass(frozen=True, kw_only=True)
class PoseOptions:
    """What a user says about a pose network; what is left out is found out."""

    skeleton: Annotated[
        str | None,
        Option(
            "coco17, coco18, body25, mpii16, body14, or a TOML file written like them.",
            Panel.VIEW,
            "NAME|F.toml",
        ),
    ] = None
    maps: Annotated[
        str | None,
        Option(
            "Which outputs are maps: heat=NAME for one person, heat=NAME,paf=NAME for several. "
            "NAME[0:19] is the first 19 channels only, NAME:nhwc has channels last. "
            "Outputs that are not named are not needed.",
            Panel.VIEW,
            "heat=NAME[,paf=NAME]",
        ),
    ] = None
    color: Annotated[
        str | None, Option("Channel order that the network expects.", Panel.VIEW, "bgr|rgb")
    ] = None
    mean: Annotated[
        str | None,
        Option("Subtracted from pixels 0..255; one number or M,M,M.", Panel.VIEW, "M"),
    ] = None
    scale: Annotated[
        str | None,
        Option("Multiplied after that, such as 1/256; one number or S,S,S.", Panel.VIEW, "S"),
    ] = None
    pad_value: Annotated[
        float | None, Option("Pixel value of the border.", Panel.VIEW, min=0, max=255)
    ] = None

    def choices(self) -> dict[str, Any]:
        """What was said, as arguments of `detect_pose_spec` and `open_engine`.

        Raises:
            InputError: a colour order, a number or maps that are none.
        """
        from graphopt.pose.spec import choices

        return choices(self.skeleton, self.color, self.mean, self.scale, self.pad_value, self.maps)
