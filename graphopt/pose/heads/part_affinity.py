"""Heat maps and part affinity fields: OpenPose, Lightweight OpenPose, the paper's networks."""

from graphopt.pose.map_heads import MapHead

HEAD = MapHead(
    name="part-affinity",
    summary="heat maps and part affinity fields: OpenPose, Lightweight OpenPose",
    source="Cao et al., CVPR 2017; Lightweight OpenPose's modules/keypoints.py",
    several=True,
)
