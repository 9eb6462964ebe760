"""Heat maps alone, the greatest pixel of each: one person (HRNet, EfficientPose)."""

from graphopt.pose.map_heads import MapHead

HEAD = MapHead(
    name="heat-maps",
    summary="heat maps of one person: HRNet, SimpleBaseline, EfficientPose",
    source="Xiao, Wu and Wei, ECCV 2018 (the greatest pixel), refined as graphopt.pose.peaks says",
    several=False,
)
