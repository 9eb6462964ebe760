"""The network that is searched: what is known of it before anything is tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_graphsurgeon as gs

from graphopt.errors import InputError
from graphopt.ir.arrays import Shape
from graphopt.ir.files import sha256_of
from graphopt.ir.onnx_io import load_model
from graphopt.passes.truncate_refinement import Cascade, TruncateRefinement
from graphopt.pose.detect import detect_pose_spec, usual_shapes
from graphopt.pose.preprocess import extents
from graphopt.pose.spec import PoseSpec
from graphopt.runtime.steps import is_quantised
from graphopt.search.candidates import heights
from graphopt.search.options import SearchOptions


@dataclass(frozen=True)
class Subject:
    """A pose network's file, and what it leaves open."""

    path: Path
    digest: str
    """The file's SHA-256."""
    graph: gs.Graph
    spec: PoseSpec
    heights: Sequence[int]
    """Heights of its input to try, the usual one first."""
    stages: int
    """Refinement stages, the initial one included; 1 for networks of another kind."""
    quantised: bool

    @classmethod
    def read(cls, path: Path, options: SearchOptions, *, fine: bool = False) -> Subject:
        """Read a network.

        Args:
            path: the file.
            options: the search's.
            fine: whether heights to try are close together.

        Raises:
            GraphoptError: it cannot be read, is no pose network, or has several inputs; a height
                that it does not take is asked for.
        """
        graph = load_model(path)
        if len(graph.inputs) != 1:
            raise InputError(f"{path} has {len(graph.inputs)} inputs; a pose network has one")
        spec = detect_pose_spec(graph, **options.pose.choices())
        own = extents(tuple(e if isinstance(e, int) else None for e in graph.inputs[0].shape))[0]
        if own is not None and options.heights:
            raise InputError(
                f"--heights: {path} takes photos of {own} rows only",
                hint="export it with a dynamic height and width",
            )
        usual = spec.preprocess.usual_size[0]
        tried = heights(usual, spec.preprocess.multiple, options.heights, fine=fine)
        if own is not None or "height" not in options.levers:
            tried = [own or usual]
        return cls(
            path=path,
            digest=sha256_of(path),
            graph=graph,
            spec=spec,
            heights=tried,
            stages=_stages(graph),
            quantised=is_quantised(graph),
        )

    @property
    def input(self) -> str:
        """The name of its input."""
        name: str = self.graph.inputs[0].name
        return name

    @property
    def dynamic(self) -> bool:
        """Whether it takes photos of any size."""
        return not all(isinstance(extent, int) for extent in self.graph.inputs[0].shape)

    def shape(self, height: int) -> Shape:
        """Its input's shape for a height."""
        preprocess = replace(self.spec.preprocess, height=height)
        return usual_shapes(self.graph.inputs, replace(self.spec, preprocess=preprocess))[
            self.input
        ]


def _stages(graph: gs.Graph) -> int:
    found = TruncateRefinement(stages=1).match(graph)
    return max((len(one.stages) for one in found if isinstance(one, Cascade)), default=1)
