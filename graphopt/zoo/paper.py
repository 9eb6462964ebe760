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
