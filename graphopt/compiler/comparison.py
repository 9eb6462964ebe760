"""How what was compiled compares with onnxruntime, and its decoder with the NumPy one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.codegen.importing.float32 import in_float32
from graphopt.errors import CheckFailed, Unsupported
from graphopt.ir.arrays import Array, Feeds
from graphopt.ir.onnx_io import serialised
from graphopt.optimizer.verify import APPROXIMATE_LIMIT
from graphopt.pose.spec import PoseSpec
from graphopt.runtime.differences import Agreement, agreement, nudged
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.runtime.plan import Decoder
from graphopt.runtime.steps import NUDGE as STEP_NUDGE
from graphopt.runtime.steps import is_quantised, step_agreement, steps_of

if TYPE_CHECKING:
    from graphopt.runtime.runner import BundleRunner

TOLERANCE, HALF_TOLERANCE, STORED_TOLERANCE = 1e-3, 1e-2, 1e-1
"""Largest difference to onnxruntime's outputs, as a part of their range, that a bundle may show;
the second where the network computes in half precision, which onnxruntime does in float. The third
is for bundles that store in half precision: 5e-2 was seen on made-up images, in which there is
nobody and maps have little range, and 3e-3 on photos."""

KERNEL_NOISES = 4.0
"""Differences of kernels may be so many times onnxruntime's own: Winograd's transforms round more
than the plain sums in all of its answers do."""
MATCHED = 0.9
"""The part of all people that a bundle's decoder must find as the NumPy decoder does."""


def opened(bundle: Path, level: str = "") -> BundleRunner | str:
    """A bundle, at one of its levels or the best that there is, or why it cannot run here."""
    from graphopt.runtime.open import open_bundle

    try:
        return open_bundle(bundle, level=level)
    except Unsupported as error:
        return error.message


def agreement_with_onnxruntime(
    graph: gs.Graph,
    inputs: Sequence[Sequence[Feeds]],
    outputs: Sequence[Sequence[Feeds]],
    limit: float | None = None,
) -> Agreement:
    """Compare outputs with onnxruntime's on the cleaned graph.

    Args:
        graph: what was compiled.
        inputs: those that belong together share one range; an image without people has little.
        outputs: for each input, every output by name.
        limit: the difference that may be; by default what the network's own arithmetic gives.
    """
    half = any(tensor.dtype == np.float16 for tensor in graph.tensors().values())
    steps = limit is None and is_quantised(graph)
    allowed = limit or (HALF_TOLERANCE if half else TOLERANCE)

    def asked(engine: OnnxRuntimeEngine, moved: Callable[[Feeds], Feeds] = dict) -> list[Feeds]:
        return [_stacked([engine.run(moved(f)) for f in together]) for together in inputs]

    def rivals() -> Iterator[list[Feeds]]:
        with serialised(graph) as model:
            yield asked(OnnxRuntimeEngine(model, optimize=False))
            yield asked(OnnxRuntimeEngine(model), nudged)
            if steps:
                written = OnnxRuntimeEngine(model, optimize=False)
                yield asked(written, partial(nudged, by=STEP_NUDGE))
            if half and isinstance(model, bytes):  # onnxruntime rounds after every node, we do not
                precise = in_float32(onnx.load_model_from_string(model)).SerializeToString()
                yield asked(OnnxRuntimeEngine(precise))

    with serialised(graph) as model:
        references = asked(OnnxRuntimeEngine(model))
    got = [_stacked(runs) for runs in outputs]
    if steps:
        found = step_agreement(got, references, rivals, steps_of(graph))
        if found is not None:
            return found
    return agreement(got, references, lambda _: allowed, rivals, KERNEL_NOISES)


def _stacked(runs: Sequence[Feeds]) -> Feeds:
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def disagreement(what: str, found: Agreement, *, overrulable: bool) -> CheckFailed:
    """The error that what was compiled differs from onnxruntime, and what to do about it."""
    reason = f", and {found.excess}" if found.excess else ""
    report = "please report the network: this is an error in graphopt"
    bounded = overrulable and found.difference <= APPROXIMATE_LIMIT
    return CheckFailed(
        f"the {what}'s outputs differ from onnxruntime's by {found.difference:.1e} of their range"
        f"{reason}",
        hint=f"{report}; --on-fail warn writes it all the same" if bounded else report,
    )


def check_decoder(
    engine: BundleRunner, decoder: Decoder, pose: PoseSpec, inputs: Sequence[Feeds]
) -> None:
    """Refuse a decoder that finds others than `graphopt.pose.decode` does in the bundle's maps.

    A few may differ: where candidates are equally good, rounding decides.
    """
    from graphopt.pose.decode import decode
    from graphopt.pose.decode_options import DecodeOptions
    from graphopt.pose.kernel_decoder import limited, poses, thresholds
    from graphopt.pose.preprocess import IDENTITY

    options = limited(DecodeOptions(), decoder)

    def asked(maps: Feeds) -> list[Array]:
        people = decode(maps, pose, IDENTITY, options).people
        return [person.keypoints for person in people]

    people = same = 0
    maps = []
    for feeds in inputs:
        engine.begin(feeds)
        got = poses(engine.people(thresholds(options)), pose, IDENTITY, options).people
        values = engine.maps()
        found, expected = [person.keypoints for person in got], asked(values)
        maps.append((values, expected))
        people += max(len(found), len(expected))
        same += _alike(found, expected)
    if same >= MATCHED * people:
        return
    # Flat maps have no sharp peaks: there rounding moves those of the reference as well.
    if same < min(
        sum(_alike(asked(nudged(values, seed)), expected) for values, expected in maps)
        for seed in range(3)
    ):
        raise CheckFailed(
            f"the decoder's kernels find {same} of {people} people right",
            hint="compile with --post none, and please report it: this is an error in graphopt",
        )


def _alike(found: Sequence[Array], expected: Sequence[Array]) -> int:
    """How many of the expected people are among those found, within a tenth of a map's pixel."""
    return sum(any(np.allclose(a, b, atol=0.1) for b in found) for a in expected)
