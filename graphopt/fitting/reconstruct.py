"""Weights fitted again after a network was changed, without labels: layer-wise least squares.

One convolution at a time, in topological order: its weights and bias are solved for such that,
from what the *changed* network feeds it, it makes what the layer of the same output name made in
the *original*. So each layer also makes up for what the layers before it could not (the asymmetric
reconstruction of Zhang et al., "Accelerating Very Deep Convolutional Networks for Classification
and Detection", TPAMI 2016, section 3.2; He et al., "Channel Pruning for Accelerating Very Deep
Neural Networks", ICCV 2017, section 3.1). A ridge pulls toward the weights that are there. A layer
is taken over only if it comes closer to its target on images that it was not fitted on. Blocks of
weights that are zero stay zero: the filters that share them are solved for together, without them.
Before a Relu only what is positive counts, in the fit and in its judgement.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.fitting.calibration import Calibration
from graphopt.fitting.chained_least_squares import Through, chain_to_counterpart
from graphopt.fitting.checkpoint import ARRAYS, FITS, Checkpoint, fingerprint, place
from graphopt.fitting.layer_fits import LayerFits, put_weights
from graphopt.fitting.layerwise_runner import (
    LayerwiseRunner,
    batch_by_bytes,
    bytes_of,
    extract_subgraph,
    live_tensors,
    make_session,
    shapes_of,
)
from graphopt.fitting.least_squares import LeastSquares
from graphopt.fitting.patch_sampling import Sample, salience
from graphopt.fitting.reconstruct_report import (
    FoundSite,
    LayerFit,
    ReconstructReport,
    before_relu,
    distance,
    error_within,
    relative,
)
from graphopt.ir.arrays import Array
from graphopt.ir.block_structure import expand, extent, kept_mask, trainable_mask
from graphopt.ir.changes import Skip
from graphopt.ir.convolution import Convolution
from graphopt.ir.graph import label
from graphopt.ir.identity import IdentityMap
from graphopt.runtime.differences import output_error
from graphopt.sparsity.channel_groups import counterpart

Masks = Literal["keep", "choose"]
"""Blocks of a weight that are zero stay zero, or as many others of the same extent take their
place, where the fit can do without those more easily (see `sparsity.optimal_brain_surgeon`)."""
POSITIONS_PER_UNKNOWN = 32
"""Output positions to fit on, as a multiple of the unknowns of one filter."""
LEAST_POSITIONS = 2048
"""The fewest output positions to fit on."""
PATCHES = 1 << 27
"""The most numbers that the output positions may see in all."""
MEMORY = 2 << 30
"""Bytes of activations held between two layers; where they would take more, fewer images are."""
AT_ONCE = 1 << 29
"""Bytes of activations that are taken from a network at once; onnxruntime needs as many again."""
THROUGH_IMAGES = 24
"""Images at most that a convolution is fitted on through others, where each is seen as a whole."""
UNCHANGED = 1e-4
"""Relative error of a layer that needs no repair: rounding."""


def reconstruct(
    graph: gs.Graph,
    original: gs.Graph,
    calibration: Calibration,
    *,
    ridge: float = 1e-2,
    photos: int = 100,
    masks: Masks = "keep",
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ReconstructReport:
    """Fit the convolutions of a changed network to the original's tensors of the same names.

    Args:
        graph: the changed network; its weights are replaced.
        original: what it was made from.
        calibration: what to fit and to judge on.
        ridge: pull toward the present weights, relative to the mean square of a layer's input.
        photos: how many images to fit on at most.
        masks: what becomes of zero blocks, see `Masks`.
        seed: of the positions that are fitted on.
        checkpoint: a file to keep each layer's fit in, or a folder for it. Where it exists, those
            fits are taken from it, and the weights come out bit for bit as without the
            interruption.
        progress: told which layer of how many is being fitted.

    Raises:
        InputError: one of the networks does not run on the images; the checkpoint is of another
            network, other photos or other options, or cannot be read or written.
    """
    started = time.perf_counter()
    work = Reconstruction(
        graph,
        original,
        calibration,
        ridge=ridge,
        photos=photos,
        masks=masks,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )
    results = [found if isinstance(found, Skip) else work.fit(found) for found in work.sites()]
    after = work.settle()
    return ReconstructReport(
        layers=tuple(r for r in results if isinstance(r, LayerFit)),
        skips=tuple(r for r in results if isinstance(r, Skip)),
        before=work.before,
        after=after,
        images=work.count,
        seconds=time.perf_counter() - started,
    )


class Reconstruction:
    """The same, a layer at a time.

    `fit` each node of `sites` before asking for the next one, and `settle` at the end.

    Args: as those of `reconstruct`.
    """

    def __init__(
        self,
        graph: gs.Graph,
        original: gs.Graph,
        calibration: Calibration,
        *,
        ridge: float = 1e-2,
        photos: int = 100,
        masks: Masks = "keep",
        seed: int = 0,
        checkpoint: Path | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._graph, self._original, self._calibration = graph, original, calibration
        self._ridge, self._masks, self._seed = ridge, masks, seed
        self._progress = progress
        self._done = 0
        self._kept: LayerFits | None = None
        if checkpoint is not None:
            options = (ridge, photos, masks, seed)
            owner = fingerprint((graph, original), calibration, options)
            self._kept = LayerFits(Checkpoint(place(checkpoint, owner, FITS), owner, ARRAYS))
        self._chains: IdentityMap[gs.Node, list[gs.Node]] = IdentityMap()
        self._skips, nodes, bytes_an_image = self._survey()
        share = len(calibration.held_out) / len(calibration.fitting)
        most = max(1, int(MEMORY / max(1.0, bytes_an_image * (1 + share))))
        self._fitting = calibration.fitting[: min(photos, most)]
        self._held_out = calibration.held_out[: math.ceil(share * len(self._fitting))]
        self._nodes = nodes
        self._replaced: list[tuple[gs.Node, list[gs.Tensor]]] = []
        self.before = output_error(graph, original, self._judged()) if nodes else 0.0
        """Error of the network's outputs on held-out images, before any fit, if there is one."""
        self._walk: LayerwiseRunner | None = None
        self._samples: dict[str, list[Sample]] = {}

    @property
    def count(self) -> int:
        """How many images are fitted on."""
        return len(self._fitting)

    def settle(self) -> float:
        """The outputs' error after the fits; where it is not less, they are all taken back.

        Every layer nearer to its target may still be a network further from its outputs, where
        what remains adds up.
        """
        if not self._nodes:
            return self.before
        after = output_error(self._graph, self._original, self._judged())
        if after >= self.before:
            for node, inputs in self._replaced:
                node.inputs = inputs
        return after

    def _judged(self) -> Iterator[Mapping[str, Array]]:
        return self._calibration.feeds(self._held_out)

    def _feeds(self) -> Iterator[Mapping[str, Array]]:
        return self._calibration.feeds([*self._fitting, *self._held_out])

    def sites(self) -> Iterator[gs.Node | Skip]:
        """Each convolution whose output departs from the original's, in topological order."""
        yield from self._skips
        if not self._nodes:
            return
        self._samples = self._sample_targets()
        self._walk = LayerwiseRunner(self._graph, self._nodes, self._feeds())
        yield from self._nodes

    def fit(self, node: gs.Node) -> LayerFit:
        """Fit one node's weights and bias, and put them into the graph where they are better."""
        spec = Convolution.of(node)
        assert spec is not None
        assert self._walk is not None
        number = 1 + next(i for i, other in enumerate(self._nodes) if other is node)
        self._progress(f"reconstruct: {number} of {len(self._nodes)} ({label(node)})")
        self._done += 1
        # Where a layer was left out, those behind it see something else than in the kept run.
        kept = self._kept if self._done == number else None
        # Also before a fit that is only recalled: in other steps, activations round otherwise.
        inputs = self._walk.advance_to(node)
        found = kept.recall(number) if kept else None
        if found is None:
            solve = self._fit_through if node in self._chains else self._fit_directly
            found = solve(node, spec, inputs)
            if kept:
                kept.keep(number, found)
        if node not in self._chains:
            del self._samples[node.outputs[0].name]
        if found.values is not None:
            self._replaced.append((node, list(node.inputs)))
            put_weights(self._graph, node, *found.values)
        return LayerFit(label(node), found.before, found.after)

    def _fit_directly(self, node: gs.Node, spec: Convolution, inputs: Sequence[Array]) -> FoundSite:
        """Fit a convolution to its counterpart in the original."""
        samples = self._samples[node.outputs[0].name]
        ours, theirs = node.outputs[0], self._original.tensors()[node.outputs[0].name]
        rectified = before_relu(self._graph, ours) and before_relu(self._original, theirs)
        pairs = [
            (sample.patches(values, spec), sample.grouped(spec.group))
            for values, sample in zip(inputs, samples, strict=True)
        ]
        system, judged = LeastSquares(spec, self._ridge), pairs[self.count :]
        for pair in pairs[: self.count]:
            system.add(*pair)
        if self._masks == "choose" and spec.group == 1 and not trainable_mask(spec.weight).all():
            block = extent(spec.weight)
            num_pruned = int(np.count_nonzero(~kept_mask(spec.weight, block)))
            (mask,) = system.masks(block, [num_pruned])
            system.restrict(expand(mask, block, spec.weight.shape))
        old, new = system.present, system.solve(rectified=rectified)
        before, after = (error_within(s, judged, rectified=rectified) for s in (old, new))
        return FoundSite.of(spec, new, before, after)

    def _fit_through(self, node: gs.Node, spec: Convolution, inputs: Sequence[Array]) -> FoundSite:
        """Fit a convolution whose target lies behind others."""
        chain = [s for s in map(Convolution.of, self._chains[node]) if s is not None]
        samples = self._samples[self._chains[node][-1].outputs[0].name]
        used = min(self.count, THROUGH_IMAGES)
        start = LeastSquares(spec, self._ridge).present
        found = Through(chain, inputs[:used], samples[:used]).solve(start)
        judge = Through(chain, inputs[self.count :], samples[self.count :])
        targets = [sample.values for sample in judge.samples]
        before, after = (distance(judge.outputs(s), targets) for s in (start, found))
        return FoundSite.of(spec, found, before, after)

    def _survey(self) -> tuple[list[Skip], list[gs.Node], float]:
        """What cannot be fitted, what must be, and bytes of activations held for each image."""
        probe = next(self._calibration.feeds(self._calibration.held_out))
        counterparts = self._original.tensors()
        sites: list[tuple[gs.Node, str, str | None]] = []
        for node in self._graph.nodes:
            spec = Convolution.of(node)
            if spec is not None and spec.op == "Conv":
                chain = chain_to_counterpart(self._graph, node, counterparts)
                name = (chain or [node])[-1].outputs[0].name
                reason = None
                if name not in counterparts:
                    reason = "the original has no tensor of that name to fit it to"
                elif len(spec.kernel) != 2 or spec.pads is None:
                    reason = "only two-dimensional convolutions with explicit pads are fitted"
                elif len(chain) > 1 and not trainable_mask(spec.weight).all():
                    reason = f"zero blocks cannot be kept in a fit to {name}, behind other ones"
                elif len(chain) > 1:
                    self._chains[node] = chain
                sites.append((node, name, reason))
        errors = self._errors(probe, dict.fromkeys(n for _, n, reason in sites if reason is None))
        skips: list[Skip] = []
        nodes: list[gs.Node] = []
        for node, name, reason in sites:
            error = errors.get(name)
            if reason is not None:
                skips.append(Skip(label(node), reason))
            elif error is None:
                skips.append(Skip(label(node), f"{name} has another shape than in the original"))
            elif error > UNCHANGED:
                nodes.append(node)
        shapes = shapes_of(self._graph, probe)
        sizes = (
            sum(bytes_of(shapes[n]) for n in names if n in shapes)
            for names in live_tensors(self._graph, nodes)
        )
        return skips, nodes, float(max(sizes, default=0))

    def _errors(self, probe: Mapping[str, Array], names: Iterable[str]) -> dict[str, float | None]:
        """How far tensors are from the original's of the same name; None if shapes differ."""
        errors: dict[str, float | None] = {}
        for part in batch_by_bytes(names, shapes_of(self._original, probe), AT_ONCE):
            ours, theirs = (
                make_session(extract_subgraph(graph, outputs=part)).run(probe)
                for graph in (self._graph, self._original)
            )
            for name in part:
                expected = counterpart(self._graph, self._original, name, theirs[name])
                same = ours[name].shape == expected.shape
                errors[name] = relative(ours[name], expected) if same else None
        return errors

    def _sample_targets(self) -> dict[str, list[Sample]]:
        """The original's outputs of the layers to fit, at random positions of every image."""
        fitted = [node for node in self._nodes if node not in self._chains]
        names = [node.outputs[0].name for node in fitted]
        wanted = {}
        for node, name in zip(fitted, names, strict=True):
            unknowns = math.prod(node.inputs[1].shape[1:]) + 1
            most = PATCHES // (unknowns * node.attrs.get("group", 1))
            wanted[name] = math.ceil(
                max(LEAST_POSITIONS, min(POSITIONS_PER_UNKNOWN * unknowns, most)) / self.count
            )
        rng = np.random.default_rng(self._seed)
        shown = [tensor.name for tensor in self._original.outputs]
        shapes = shapes_of(self._original, next(self._judged()))
        samples: dict[str, list[Sample]] = {name: [] for name in names}
        for part in batch_by_bytes(names, shapes, AT_ONCE):
            engine = make_session(extract_subgraph(self._original, outputs=sorted({*part, *shown})))
            for feed in self._feeds():
                values = engine.run(feed)
                where = salience([values[name] for name in shown])
                for name in part:
                    target = counterpart(self._graph, self._original, name, values[name])
                    samples[name].append(Sample.of(target, wanted[name], rng, where))
        return samples
