"""Options about pose networks and what runs them, and those of the commands `run` and `eval`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from graphopt.display.options import Option, Panel


@dataclass(frozen=True, kw_only=True)
class PoseOptions:
    """What a user says about a pose network; what is left out is found out."""

    skeleton: Annotated[
        str | None,
        Option(
            "coco17, coco18, body25, mpii16, body14, halpe26, coco-wholebody133, blazepose33, "
            "hand21, or a TOML file written like them.",
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
    head: Annotated[
        str | None,
        Option(
            "What the outputs are, where it cannot be told; `graphopt heads` lists the heads.",
            Panel.VIEW,
            "NAME",
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
            InputError: a colour order, a number or maps that cannot be read.
        """
        from graphopt.pose.spec import choices

        said = choices(self.skeleton, self.color, self.mean, self.scale, self.pad_value, self.maps)
        return said | {"head": self.head}


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What runs a pose network, and how."""

    engine: Annotated[
        str | None,
        Option("What runs the network; a bundle's default is graphopt.", Panel.SIZE, "NAME"),
    ] = None
    threads: Annotated[
        int,
        Option("CPU threads; 0 takes every core; onnxruntime chooses.", Panel.SIZE, min=0),
    ] = 0
    height: Annotated[
        int | None,
        Option("Input rows, where the network takes any; 368 is usual.", Panel.SIZE, min=32),
    ] = None
    pose: PoseOptions = field(default_factory=PoseOptions)

    def opening(self) -> dict[str, Any]:
        """Arguments of `open_engine`.

        Raises:
            InputError: see `PoseOptions.choices`.
        """
        return {"engine": self.engine, "threads": self.threads, **self.pose.choices()}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How people are found in photos and videos."""

    running: EngineOptions = field(default_factory=EngineOptions)
    min_score: Annotated[
        float, Option("Leave out people with a lower score.", Panel.PEOPLE, min=0, max=1)
    ] = 0.0
    boxes: Annotated[
        Path | None,
        Option(
            "Boxes of the people, [left, top, width, height], by photo: for networks that see one "
            "person, cut out. If left out, that is the whole photo.",
            Panel.PEOPLE,
            "F.json",
        ),
    ] = None
    track: Annotated[
        bool, Option("Follow people from frame to frame of a video.", Panel.PEOPLE)
    ] = False
    smooth: Annotated[
        bool, Option("Besides, keep their key points from trembling.", Panel.PEOPLE)
    ] = False
    each: Annotated[bool, Option("A line for each frame of a video.", Panel.PEOPLE)] = False

    @property
    def tracking(self) -> Literal["off", "track", "smooth"]:
        """What is done from frame to frame."""
        return "smooth" if self.smooth else "track" if self.track else "off"


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What a network is judged on, and how it runs."""

    images: Annotated[Path, Option("Folder of the photos.", Panel.PHOTOS, "DIR")]
    annotations: Annotated[Path, Option("COCO key-point annotations.", Panel.PHOTOS, "F.json")]
    limit: Annotated[
        int | None, Option("Only the first N photos, by image id.", Panel.PHOTOS, min=1)
    ] = None
    running: EngineOptions = field(default_factory=EngineOptions)
