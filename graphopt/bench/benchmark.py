"""How long a network takes, beside other engines and layer by layer.

A machine's speed drifts, with its temperature and with what else it does. So engines take turns
(A B C, B C A, C A B …), and what counts is a median over rounds and how far rounds disagree; a
single measurement says little. A fast wrong answer is no answer: every engine's outputs are
compared with onnxruntime's on the same input, and the difference stands beside the time. Engines
compute in what each of them is fastest in, so that the people whom they find in photos are compared
with those of the float32 original, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from graphopt.bench.bench_report import BenchReport, LayerTiming
from graphopt.bench.competitors import check_names
from graphopt.bench.contest import Contest
from graphopt.bench.options import BenchOptions
from graphopt.bench.pose_oks import photos_in, pose_oks
from graphopt.bench.roofline import measure_peak
from graphopt.bench.stage_timing import measure_budget
from graphopt.bench.turns import measure, summarise
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.errors import UsageError
from graphopt.ir.arrays import Array
from graphopt.ir.onnx_io import load_model
from graphopt.pose.images import read_photo
from graphopt.pose.open import bundled_spec
from graphopt.runtime.bundle import read_bundle
from graphopt.runtime.engine import Engine, OnnxRuntimeEngine
from graphopt.runtime.precision import bundle_precision
from graphopt.runtime.threads import usable_cores

LOW = frozenset(["int8", "bfloat16"])
"""What bundles multiply in that have tensors of such a type."""


def bench(
    path: Path,
    options: BenchOptions = BenchOptions(),
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchReport:
    """Measure a compiled network beside other engines.

    Args:
        path: a bundle, or an ONNX file, which is compiled for this machine's CPU first.
        options: what is measured beside it, and how often.
        progress: called with what is being done.

    Raises:
        UsageError: a bundle of less than float32 in a contest of that.
        GraphoptError: the file cannot be read, compiled or run. A competitor that fails is no
            error: it is reported as unavailable.
    """
    check_names(options.vs)
    picture = read_photo(options.photo) if options.photo else None
    looked_at = options.images or options.photo
    photos = photos_in(looked_at) if looked_at else ()
    threads, rounds = options.threads or usable_cores(), options.num_runs
    with TemporaryDirectory(prefix="graphopt-bench-") as folder:
        scratch = Path(folder)
        bundle = _bundle(path, options, scratch, progress)
        contest = Contest.prepare(bundle, options, threads, scratch)
        progress("loading the network into each engine")
        ready = contest.line_up(options.vs)
        times = _timed(ready.engines, contest.feeds, options, progress)
        size = sum(file.stat().st_size for file in bundle.iterdir())
        memory = contest.memory(ready.engines, progress)
        oks = _oks(contest, ready.engines, photos, progress)
        budget = None
        if options.photo and picture:
            progress("measuring the way of a photo")
            budget = measure_budget(contest.subject, options.photo, picture, rounds)
        layers = peak = None
        if options.per_layer:
            progress("measuring the machine's peak")
            peak = measure_peak(read_bundle(bundle).manifest.target.name, threads)
            progress("measuring layers")
            layers = LayerTiming.of(contest.subject.profile(contest.feeds, rounds), peak)
    timings, ratios, spread = summarise([engine.name for engine in ready.engines], times)
    return BenchReport(
        engines=timings,
        ratios=ratios,
        ratio_p10_p90=spread,
        difference=ready.difference,
        files=contest.files(ready.engines),
        contest=options.contest,
        precision=contest.precision(ready.engines),
        oks=oks,
        photos=len(photos),
        remark=_remark(contest),
        notes=contest.notes(options.vs),
        unavailable=ready.unavailable,
        threads=threads,
        rounds=rounds,
        model=str(path),
        input=contest.shapes,
        compiled_here=bundle is not path,
        memory=memory,
        bundle_bytes=size,
        layers=layers,
        peak=peak,
        budget=budget,
    )


def _bundle(
    path: Path, options: BenchOptions, scratch: Path, progress: Callable[[str], None]
) -> Path:
    """The bundle that is measured: `path`, or what it is compiled into."""
    if not path.is_dir():
        progress(f"compiling {path.name}")
        bundle = scratch / "bundle"
        as_it_comes = CompileOptions(
            input_shape=options.input_shape,
            tuning="off",
            precision="float32" if options.contest == "float32" else None,
        )
        compile_model(path, bundle, as_it_comes, progress=progress)
        return bundle
    if options.input_shape:
        raise UsageError(
            "--input-shape: a bundle is compiled for one size",
            hint="give the ONNX file, or compile it again with --input-shape",
        )
    precision = bundle_precision(read_bundle(path))
    if options.contest == "float32" and LOW & {*precision.split(", ")}:
        raise UsageError(
            f"--contest float32: the bundle computes in {precision}",
            hint="compile it with --precision float32, or leave out --contest",
        )
    return path


def _timed(
    engines: Sequence[Engine],
    feeds: Mapping[str, Array],
    options: BenchOptions,
    progress: Callable[[str], None],
) -> NDArray[np.float64]:
    """Milliseconds of each engine in each round, as `measure` has them."""
    total, done = options.warmup_runs + options.num_runs, 0

    def count() -> None:
        nonlocal done
        done += 1
        progress(f"round {done} of {total}")

    return measure(
        engines,
        feeds,
        rounds=options.num_runs,
        warmup_rounds=options.warmup_runs,
        after_round=count,
    )


def _oks(
    contest: Contest,
    engines: Sequence[Engine],
    photos: Sequence[Path],
    progress: Callable[[str], None],
) -> dict[str, float]:
    """How alike each engine's people are to the original's in onnxruntime; empty without photos."""
    if not photos:
        return {}
    progress("looking for people")
    spec = bundled_spec(read_bundle(contest.bundle))
    reference = OnnxRuntimeEngine(contest.original.model, threads=contest.threads)
    return pose_oks(engines, reference, spec, photos)


def _remark(contest: Contest) -> str:
    """What to know of a network that was rewritten."""
    own, rivals = contest.own.path, contest.original.path
    if rivals != own:
        off = contest.off()
        by = "" if off is None else f", whose outputs differ from its by {off:.1e} of their range"
        return f"others run {rivals.name}; graphopt runs {own.name}{by}"
    if "graphopt.pipeline" in load_model(own).header.metadata:
        return (
            f"every engine ran {own.name}, which graphopt optimize rewrote: others may be faster "
            "on the network that it was made from (--original A.onnx)"
        )
    return ""
