"""What a changed layer does to maps and poses, on photos that nothing was fitted on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx_graphsurgeon as gs

from graphopt.analysis.compare import PoseTally, people_in
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.layerwise_runner import (
    bytes_of,
    extract_subgraph,
    live_tensors,
    make_session,
    shapes_of,
)
from graphopt.fitting.reconstruct import MEMORY
from graphopt.ir.arrays import Array
from graphopt.optimizer.options import PHOTOS
from graphopt.optimizer.sensitivity_file import Loss
from graphopt.pose.decode import Person
from graphopt.pose.spec import HEAT_IMPORTANCE, PoseSpec
from graphopt.runtime.differences import OutputError


def held_out_images(
    graph: gs.Graph, nodes: Sequence[gs.Node], calibration: Calibration
) -> tuple[list[Path | int], list[Path | int]]:
    """The images to fit on and to judge by: `PHOTOS`, or what memory holds between two layers."""
    probe = next(calibration.feeds(calibration.held_out))
    shapes = shapes_of(graph, probe)
    sizes = (
        sum(bytes_of(shapes[name]) for name in names if name in shapes)
        for names in live_tensors(graph, [*nodes, graph.nodes[-1]])
    )
    images = len(calibration.fitting) + len(calibration.held_out)
    share = min(1.0, PHOTOS / images, MEMORY / (max(sizes) * images))
    fitting, held_out = (
        list(group[: max(1, int(share * len(group)))])
        for group in (calibration.fitting, calibration.held_out)
    )
    return fitting, held_out


class MapJudge:
    """The dense network's maps and people in some photos, to judge others by."""

    def __init__(
        self, graph: gs.Graph, calibration: Calibration, images: Sequence[Path | int]
    ) -> None:
        self._spec, self._calibration, self._photos = calibration.spec, calibration, images
        read = [maps for maps in (self._spec.heat, self._spec.paf) if maps is not None]
        self.outputs = sorted({maps.output for maps in read})
        engine = make_session(extract_subgraph(graph, outputs=self.outputs))
        self._expected = [engine.run(feed) for feed in self.feeds()]
        self._found: list[Sequence[Person]] = [people_in(e, self._spec) for e in self._expected]

    @property
    def people(self) -> int:
        """How many the dense network found."""
        return sum(map(len, self._found))

    def feeds(self) -> Iterator[Mapping[str, Array]]:
        """The network's inputs."""
        return self._calibration.feeds(self._photos)

    def loss(self, ratio: float, runs: Iterable[Mapping[str, Array]]) -> Loss:
        """What a network that makes these outputs has lost; those that it lacks are as before."""
        error, tally = OutputError(), PoseTally(self._spec)
        for values, expected, found in zip(runs, self._expected, self._found, strict=True):
            outputs = {**expected, **values}
            error.add(maps_of(outputs, self._spec), maps_of(expected, self._spec))
            tally.add(found, people_in(outputs, self._spec))
        change = tally.change(mean_of_maps(error.errors))
        return Loss(ratio=ratio, error=change.error, shift=change.mean_shift, oks=change.oks)


def maps_of(outputs: Mapping[str, Array], spec: PoseSpec) -> dict[str, Array]:
    """The maps that are read, by what they are, also where one output holds both."""
    return {
        name: maps.of(outputs)[:count]
        for name, maps, count in (
            ("heat", spec.heat, len(spec.skeleton.parts)),
            ("paf", spec.paf, spec.skeleton.paf_channels),
        )
        if maps is not None
    }


def mean_of_maps(errors: Mapping[str, float]) -> float:
    """One error for both kinds of maps, or that of the heat maps where there are no others."""
    if "paf" not in errors:
        return errors["heat"]
    return HEAT_IMPORTANCE * errors["heat"] + (1 - HEAT_IMPORTANCE) * errors["paf"]
