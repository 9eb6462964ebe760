"""What Shen et al. (IJCAI 2021) print in their tables, to stand beside what is counted here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ACCURACY = (
    "Accuracy is the paper's, of networks trained on COCO (Shen et al., IJCAI 2021); nothing here "
    "was trained, and the same layers need not have it."
)


@dataclass(frozen=True)
class Depth:
    """A row of table 1: a ResNet-50 of some depth."""

    gflops: float
    """Multiply-adds, as in most papers on the subject."""
    ap: float
    second: float
    """The column headed mAP."""


TABLE_1: Mapping[int, Depth] = {
    24: Depth(13.68, 0.41, 0.682),
    36: Depth(16.05, 0.423, 0.69),
    72: Depth(16.09, 0.436, 0.693),
    147: Depth(16.46, 0.433, 0.69),
}
"""By the number of layers."""


@dataclass(frozen=True)
class Model:
    """A row of table 2."""

    title: str
    network: str
    """Its name in the catalogue."""
    ap: float
    params: float
    """10^6."""
    gflops: float
    friendly: bool
    """Whether its post-processing suits phones."""
    pruned: float = 1.0
    """How many times fewer parameters than the network in the catalogue has."""
    reason: str = ""
    """Why our counts differ."""


COUNTER = "by its authors' counter"
"""It counts transposed convolutions at their output's size, and the parameters of EfficientNet's
blocks twice."""
INFERRED = "inferred"
UNTRAINED = "needs trained weights"

TABLE_2 = (
    Model(
        "PersonLab",
        "personlab-resnet152",
        *(66.5, 68.7, 405.5, False),
        reason="not reproduced",
    ),
    Model("Associative Embedding", "associative-embedding", 65.5, 138.9, 222.3, False),
    Model(
        "HRNet",
        "hrnet-w32",
        *(64.4, 28.5, 38.9, False),
        reason="MACs not reproduced",
    ),
    Model("HigherHRNet", "higherhrnet-w32", 67.1, 28.6, 47.9, False, reason=COUNTER),
    Model("EfficientHRNet H-4", "efficienthrnet-h4", 35.7, 3.7, 2.1, False, reason=COUNTER),
    Model("EfficientHRNet H-3", "efficienthrnet-h3", 44.8, 6.9, 4.2, False, reason=COUNTER),
    Model("OpenPose", "openpose", 48.6, 52.3, 136.1, True),
    Model("Lightweight OpenPose", "lightweight-openpose", 40.0, 4.1, 9.0, True),
    Model("Ours ResNet50_3 (dense)", "resnet50-72", 43.9, 6.77, 16.4, True, reason=INFERRED),
    Model(
        "Ours ResNet50_3 (1.80x)",
        "resnet50-72",
        *(42.0, 3.76, 9.7, True),
        pruned=1.8,
        reason=UNTRAINED,
    ),
    Model(
        "Ours ResNet50_3 (2.15x)",
        "resnet50-72",
        *(41.5, 3.15, 8.3, True),
        pruned=2.15,
        reason=UNTRAINED,
    ),
    Model(
        "Ours EfficientNet (2.01x)",
        "efficientnet-pose",
        *(41.6, 1.68, 4.7, True),
        pruned=2.01,
        reason=UNTRAINED,
    ),
)

FIGURE_3 = {
    "lightweight-openpose": 1.0,
    "resnet50-72": 1.42,
    "resnet50-72, 1.80x pruned": 2.07,
    "the best": 2.51,
}
"""Times as fast as Lightweight OpenPose on a Galaxy S10 (section 3)."""

POST_PROCESSING = {
    "associative embedding": ("associative embedding (EfficientHRNet)", 2.0),
    "centre offsets": ("key point regression (HRNet)", 0.2),
    "PAF": ("bipartite matching of fields (OpenPose)", 0.02),
}
"""What `graphopt bench --post-processing` calls a way begins so; the paper's name and seconds on a
desktop CPU (section 2.1), of a number of people and an implementation that it does not say."""
