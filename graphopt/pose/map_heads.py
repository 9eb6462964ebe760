"""The two heads of networks that answer with maps alone, whose kernels bundles have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.errors import InputError
from graphopt.ir.arrays import Feeds
from graphopt.pose.decode import Poses, decode
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.detect import detect_pose_spec
from graphopt.pose.head import Look, Size
from graphopt.pose.preprocess import Placement
from graphopt.pose.spec import PoseSpec


@dataclass(frozen=True)
class MapHead:
    """A head whose pose spec is a `PoseSpec`: with part affinity fields, or without."""

    name: str
    summary: str
    source: str
    several: bool
    """Whether there are part affinity fields, for several people."""

    def read(self, look: Look) -> Iterator[PoseSpec]:
        """See `graphopt.pose.head.Head`."""
        spec = detect_pose_spec(look.proto, **look.said)
        if (spec.paf is not None) != self.several:
            raise InputError(f"the network has {'no' if self.several else ''} PAFs: {spec.heat}")
        yield spec

    def decode(
        self,
        outputs: Feeds,
        spec: PoseSpec,
        placement: Placement,
        options: DecodeOptions,
        size: Size,  # noqa: ARG002  maps say where they are themselves
    ) -> Poses:
        """See `graphopt.pose.head.Head`."""
        return decode(outputs, spec, placement, options)
