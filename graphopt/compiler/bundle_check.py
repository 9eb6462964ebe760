"""A bundle that was just compiled, compared with onnxruntime: each of its levels that runs here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from graphopt.compiler.comparison import check_decoder, disagreement, opened
from graphopt.compiler.options import CompileOptions
from graphopt.compiler.people import check_people
from graphopt.compiler.precision import agreement_of, remedy
from graphopt.compiler.prepare import Prepared
from graphopt.errors import CheckFailed
from graphopt.ir.arrays import Feeds
from graphopt.optimizer.verify import APPROXIMATE_LIMIT
from graphopt.pose.spec import PoseSpec
from graphopt.runtime.plan import Comparison, Manifest

if TYPE_CHECKING:
    from graphopt.runtime.runner import BundleRunner


class Samples(NamedTuple):
    """What a bundle is compared with onnxruntime on.

    Args:
        together: inputs whose outputs share one range, a list each.
        largest: largest absolute value of each tensor; None where nothing is stored in halves.
        remarks: what a user should know of the photos.
        pictures: those among them in which people are looked for.
    """

    together: list[list[Feeds]]
    largest: Mapping[str, float] | None
    remarks: tuple[str, ...]
    pictures: Sequence[Feeds] = ()


@dataclass(frozen=True)
class Checked:
    """What came of it.

    Args:
        comparison: of the level that differs most; None where none runs here.
        difference: its largest difference to onnxruntime's outputs as a part of their range, or why
            it was not measured.
        remarks: what the user should know, a sentence each.
    """

    comparison: Comparison | None
    difference: float | str
    remarks: tuple[str, ...]


def check_bundle(
    bundle: Path,
    manifest: Manifest,
    network: Prepared,
    samples: Samples,
    options: CompileOptions,
    failures: Sequence[str],
    progress: Callable[[str], None],
) -> Checked:
    """Compare a bundle with onnxruntime, and its decoder with the decoder's meaning.

    Args:
        bundle: its folder.
        manifest: what it is.
        network: what was compiled.
        samples: what to compare on.
        options: what was asked for.
        failures: what was overruled before.
        progress: told what is being done.

    Raises:
        CheckFailed: it differs too much.
    """
    found: list[Comparison] = []
    remarks: list[str] = []
    reasons: list[str] = []
    for name in [level.name for level in manifest.levels] or [""]:
        told = f"level {name}: " if name else ""
        progress(f"{told}comparing with onnxruntime")
        engine = opened(bundle, name)
        if isinstance(engine, str):
            reasons.append(engine)
            remarks.append(f"{told}not compared with onnxruntime: {engine}")
            continue
        try:
            comparison, said = _compared(engine, network, samples, options, failures)
            found.append(comparison)
            if engine.bundle.plan.decoder and isinstance(network.pose, PoseSpec):
                progress(f"{told}comparing people with the decoder's meaning")
                feeds = [feeds for feeds, *_ in samples.together]
                check_decoder(engine, engine.bundle.plan.decoder, network.pose, feeds)
        except CheckFailed as error:
            error.message = f"{told}{error.message}"
            raise
        remarks += [f"{told}{remark}" for remark in said]
    if not found:
        return Checked(None, reasons[0], tuple(failures))
    worst = max(found, key=lambda comparison: comparison.difference)
    return Checked(worst, worst.difference, tuple(remarks))


def _compared(
    engine: BundleRunner,
    network: Prepared,
    samples: Samples,
    options: CompileOptions,
    before: Sequence[str],
) -> tuple[Comparison, list[str]]:
    """How a level compares with onnxruntime, and remarks on that.

    Args:
        engine: the bundle at that level.
        network, samples, options: as in `check_bundle`.
        before: what was overruled before.

    Raises:
        CheckFailed: it differs too much, or finds other people.
    """
    failures = [*before]
    got = [[engine.run(feeds) for feeds in together] for together in samples.together]
    found = agreement_of(options, network.graph, samples.together, got)
    if found.excess is not None:
        failure = disagreement("bundle", found, overrulable=True)
        failure.hint = remedy(options) or failure.hint
        if options.on_fail == "stop" or not found.difference <= APPROXIMATE_LIMIT:
            raise failure
        failures.append(failure.message)
    remarks = [*([found.within] if found.within else []), *failures]
    if samples.pictures and isinstance(network.pose, PoseSpec):
        outputs = [engine.run(feeds) for feeds in samples.pictures]
        told = check_people(network.graph, network.pose, samples.pictures, outputs)
        remarks += [told] if told else []
    comparison = Comparison(
        difference=found.difference, noise=found.noise, failures=tuple(failures)
    )
    return comparison, remarks
