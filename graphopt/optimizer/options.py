"""Options of the commands `optimize`, `sensitivity`, `explain`, `passes` and `pack`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from graphopt.display.options import Option, Panel
from graphopt.fitting.distill_options import TrainDevice
from graphopt.ir.options import InputShape
from graphopt.pose.options import PoseOptions

VerifyMode: TypeAlias = Literal["each", "end", "off"]
"""When to compare with the original network."""
OnFail: TypeAlias = Literal["stop", "revert", "bisect", "warn"]
"""What a failed comparison does."""

Load: TypeAlias = Annotated[
    tuple[Path, ...],
    Option("A Python file that defines more passes; may be repeated.", Panel.PASSES),
]

Extent: TypeAlias = Literal["4x4", "8x4", "16x4", "16x1", "8x1"]
"""Filters x channels of a block."""
RATIOS = (0.25, 0.5, 0.7, 0.85)
"""Parts of a layer's blocks that go, where sensitivity is measured."""
PHOTOS = 50
"""Images at most there, a share of them held out: more only make the same ranking surer."""

FEW_PHOTOS = 25
"""As many as tell which layers a pass leaves alone, if not what it makes of the others."""
_COUNT = "How many of them at most; a fifth is only for judging."


@dataclass(frozen=True, kw_only=True)
class OptimizeOptions:
    """How a network is optimised.

    Without `preset` and `passes`, the preset is `mobile`. Inputs that are dynamic and not in
    `input_shape` are judged at the size that `compile` would take (`usual_shapes`), and fixed there
    if a pass is bound to a size; with `input_shape=("dynamic",)` they are left dynamic, and such
    passes do less.

    Without `calib`, passes that need images get made-up ones, and the report says what that costs;
    if it cannot be told how the network sees images, those of the preset are left out. Of
    `calib_photos` a fifth is held out; least squares look at fewer, training draws from all.

    With a goal of pruning (`compression`, `speedup`, `latency_ms`, `max_ap_drop`), the layers'
    sensitivity is measured after the preset, the plan that loses least is written beside the output
    as `NAME.plan.json`, and `prune-blocks` and `reconstruct` follow. It needs `calib`. With a
    `device` that was named, layers are pruned only where that pays there.

    On the command line, goals of speed and of AP without `compression`, `passes` and another preset
    than `mobile` are wishes (`graphopt.optimizer.wishes`): a search chooses from all levers
    (`graphopt.search.choose`), which `annotations`, `images` and `budget_minutes` are for.

    With `int8`, the pass `quantize` comes last and needs `calib`; `max_shift` and `max_ap_drop` are
    its budget then, and the latter is no goal of pruning.
    """

    preset: Annotated[
        str | None,
        Option(
            "A ready-made pipeline: exact, or mobile (default): all that is predicted to pay.",
            Panel.PASSES,
        ),
    ] = None
    passes: Annotated[
        str | None,
        Option(
            "A pipeline such as 'a{x=1}, b'; it follows the preset if both are given.",
            Panel.PASSES,
        ),
    ] = None
    skip_passes: Annotated[
        tuple[str, ...],
        Option("Passes of the pipeline to leave out: a,b.", Panel.PASSES, "A,B", separator=","),
    ] = ()
    load: Load = ()
    input_shape: Annotated[
        tuple[str, ...],
        Option(
            "An input's size, where it is dynamic, with NAME: if there are several; else the "
            "usual one, which compile takes. dynamic: the result takes any.",
            Panel.SIZE,
            "[NAME:]1,3,H,W|dynamic",
        ),
    ] = ()
    verify: Annotated[
        VerifyMode,
        Option("Compare with the original after each pass, at the end, or never.", Panel.CHECKS),
    ] = "each"
    on_fail: Annotated[
        OnFail,
        Option(
            "If a comparison fails: stop, take the pass back, find and take back those of its "
            "changes that are to blame, or only warn.",
            Panel.CHECKS,
        ),
    ] = "stop"
    device: Annotated[
        str | None,
        Option(
            "What it is to be fast on: adreno-640 (default), another profile, or a file; with "
            "--speedup and its like local (default), this CPU, measured.",
            Panel.TARGET,
            "NAME|local",
        ),
    ] = None
    calib: Annotated[
        Path | None,
        Option(
            "Photos, no labels: weights are fitted on them, and poses compared.",
            Panel.PHOTOS,
            "DIR",
        ),
    ] = None
    calib_photos: Annotated[int, Option(_COUNT, Panel.PHOTOS, min=5)] = 1000
    max_shift: Annotated[
        float | None,
        Option(
            "How far key points may move in the mean on held-out photos, in input pixels.",
            Panel.PHOTOS,
            "PIXELS",
            min=0,
        ),
    ] = None
    speedup: Annotated[
        float | None,
        Option(
            "The most accurate network that is so many times as fast on --device, by whatever "
            "does it: smaller photos, lower precision, pruning. With --preset exact, --passes or "
            "--compression by pruning alone.",
            Panel.WISH,
            "TIMES",
            min=1,
        ),
    ] = None
    latency_ms: Annotated[
        float | None,
        Option("The same for a time on --device.", Panel.WISH, "MS", min=0),
    ] = None
    max_ap_drop: Annotated[
        float | None,
        Option(
            "The fastest whose AP is at most so much less, 0..1; without --annotations against "
            "the original's own poses. By pruning alone, and with --int8: 1 - OKS to those.",
            Panel.WISH,
            "DROP",
            min=0,
            max=1,
        ),
    ] = None
    annotations: Annotated[
        Path | None,
        Option(
            "COCO key points of the photos in --images: then --max-ap-drop is of real AP.",
            Panel.WISH,
            "F.json",
        ),
    ] = None
    images: Annotated[
        Path | None, Option("The photos that --annotations is of.", Panel.WISH, "DIR")
    ] = None
    budget_minutes: Annotated[
        float | None,
        Option(
            "How long is searched at most (30); the same command goes on where it stopped.",
            Panel.WISH,
            min=1,
        ),
    ] = None
    compression: Annotated[
        float | None,
        Option(
            "Prune to so many times fewer multiply-adds, which is seldom as many times as fast.",
            Panel.PRUNING,
            "TIMES",
            min=1,
        ),
    ] = None
    sensitivity: Annotated[
        Path | None,
        Option(
            "For pruning: what `graphopt sensitivity --json` wrote; else it is measured.",
            Panel.PRUNING,
            "F.json",
        ),
    ] = None
    distill: Annotated[
        bool, Option("Train the result against the original; slow.", Panel.PRUNING)
    ] = False
    train_device: Annotated[
        TrainDevice | None,
        Option(
            "Train (--distill) on the CPU, on NVIDIA's or AMD's GPUs, or on Apple's. Several take "
            "part if torchrun starts the command; the first writes the result.",
            Panel.PRUNING,
        ),
    ] = None
    int8: Annotated[
        bool,
        Option(
            "Store the result's weights and activations in eight bits, fitted to --calib: the "
            "pass quantize, after all others. --max-shift and --max-ap-drop then leave the fewest "
            "layers float that hold them.",
            Panel.TARGET,
        ),
    ] = False
    pose: PoseOptions = field(default_factory=PoseOptions)

    @property
    def training(self) -> str | None:
        """The pass that trains the result, if that is asked for, as pipelines write it."""
        if self.train_device is not None:
            return f"distill{{device={self.train_device}}}"
        return "distill" if self.distill else None


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions:
    """How sensitivity to pruning is measured.

    Of `calib_photos`, a fifth is held out to judge by.
    """

    calib: Annotated[
        Path, Option("Photos, no labels: to fit on, and others to judge by.", Panel.PHOTOS, "DIR")
    ]
    calib_photos: Annotated[int, Option(_COUNT, Panel.PHOTOS, min=5)] = PHOTOS
    ratio: Annotated[
        tuple[float, ...],
        Option(
            "Part of a layer's blocks that goes; may be repeated (0.25, 0.5, 0.7 and 0.85).",
            Panel.PRUNING,
            min=0.01,
            max=0.99,
        ),
    ] = RATIOS
    block: Annotated[Extent, Option("Filters x channels of a block.", Panel.PRUNING)] = "16x1"
    input_shape: InputShape = ()
    pose: PoseOptions = field(default_factory=PoseOptions)


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """Which matches of a pass are looked for.

    A pass that is fitted to photos is run on those of `calib`.
    """

    node: Annotated[
        str | None, Option("Only this node, by its name or an output's.", Panel.PASSES, "NAME")
    ] = None
    after: Annotated[str, Option("Passes to run before: 'a, b'.", Panel.PASSES, "PIPELINE")] = ""
    calib: Annotated[
        Path | None,
        Option("Photos, no labels, for a pass that is fitted to some.", Panel.PHOTOS, "DIR"),
    ] = None
    calib_photos: Annotated[int, Option(_COUNT, Panel.PHOTOS, min=5)] = FEW_PHOTOS
    load: Load = ()
    input_shape: InputShape = ()


@dataclass(frozen=True, kw_only=True)
class PassesOptions:
    """Which passes there are beside those that are installed."""

    load: Load = ()


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """How weights are stored."""

    fp16: Annotated[bool, Option("Store weights in half precision.", Panel.TARGET)] = False
