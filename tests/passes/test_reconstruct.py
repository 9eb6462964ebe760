"""Calibration, and weights fitted again on it: on small networks with a known answer."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from known import known, values_of
from PIL import Image
from small_networks import HEAT_SPEC, MakeGraph, Normal

from graphopt.errors import InputError
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.least_squares import LeastSquares
from graphopt.fitting.reconstruct import Reconstruction, reconstruct
from graphopt.fitting.reconstruct_report import error_within
from graphopt.ir.convolution import Convolution
from graphopt.ir.edit import constant
from graphopt.ir.onnx_io import load_model
from graphopt.optimizer.pass_contract import Context
from graphopt.optimizer.syntax import parse_pipeline
from graphopt.passes.reconstruct import Reconstruct
from graphopt.pose.detect import detect_pose_spec
from graphopt.runtime.differences import output_error
from graphopt.runtime.engine import OnnxRuntimeEngine

SPEC = replace(HEAT_SPEC, stride=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten photos, and a text file."""
    rng = np.random.default_rng(5)
    for index in range(10):
        pixels = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no photo")
    return tmp_path


@pytest.fixture
def net(network: MakeGraph, normal: Normal) -> gs.Graph:
    """Strided; depthwise and dilated; grouped with one-sided pads; 1x1 without a bias."""
    return network(
        "float[1,3,24,32] x",
        "float[1,19,12,15] y",
        """a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1, b1) ra = Relu(a)
           d = Conv<pads=[2,2,2,2], dilations=[2,2], group=8>(ra, w2, b2) rd = Relu(d)
           g = Conv<pads=[1,0,1,1], group=2>(rd, w3, b3) rg = Relu(g)
           y = Conv(rg, w4)""",
        w1=normal(8, 3, 3, 3),
        b1=normal(8),
        w2=normal(8, 1, 3, 3),
        b2=normal(8),
        w3=normal(12, 4, 3, 3) / 3,
        b3=normal(12),
        w4=normal(19, 12, 1, 1),
    )


def spoiled(graph: gs.Graph, amount: float = 0.3) -> gs.Graph:
    """A copy with noise on every weight."""
    rng = np.random.default_rng(11)
    copied = graph.copy()
    for node in copied.nodes:
        if node.op == "Conv":
            values = values_of(node.inputs[1])
            noise = amount * values.std() * rng.standard_normal(values.shape)
            node.inputs[1] = constant(copied, "spoiled", values + noise.astype(np.float32))
    return copied


def test_the_choice_of_photos(folder: Path, net: gs.Graph) -> None:
    first = Calibration.from_photos(folder, net, SPEC, count=8, seed=1)
    again = Calibration.from_photos(folder, net, SPEC, count=8, seed=1)
    other = Calibration.from_photos(folder, net, SPEC, count=8, seed=2)
    assert (first.fitting, first.held_out) == (again.fitting, again.held_out)
    assert (first.fitting, first.held_out) != (other.fitting, other.held_out)
    assert len(first.fitting) == 6
    assert len(first.held_out) == 2
    assert not set(first.fitting) & set(first.held_out)
    assert all(Path(str(path)).suffix == ".png" for path in [*first.fitting, *first.held_out])
    (feed, *_) = first.feeds(first.fitting)
    assert feed["x"].shape == (1, 3, 24, 32)
    assert feed["x"].dtype == np.float32


def test_damaged_photos_are_passed_over_and_named(
    folder: Path, net: gs.Graph, tmp_path: Path
) -> None:
    assert not Calibration.from_photos(tmp_path, net, SPEC).remarks
    good = set(folder.glob("*.png"))
    whole = next(iter(good)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.effect_noise((64, 64), 50).save(tmp_path / "half.jpg")
    jpeg = (tmp_path / "half.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "notes.txt").write_text("no photo, and none that is missed")
    calibration = Calibration.from_photos(tmp_path, net, SPEC)
    images = [*calibration.fitting, *calibration.held_out]
    assert set(images) == good
    assert len(list(calibration.feeds(images))) == len(good)
    assert {path.name for path in calibration.damaged} == {"cut.png", "empty.jpg", "half.jpg"}
    (remark,) = calibration.remarks
    assert all(name in remark for name in ("cut.png", "empty.jpg", "half.jpg"))
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"holds 0 photos that can be read \(not .*and .* more\)"):
        Calibration.from_photos(tmp_path, net, SPEC)


def test_inputs_are_of_the_network_s_type(folder: Path, network: MakeGraph) -> None:
    half = network("float16[1,3,24,32] x", "float16[1,3,24,32] y", "y = Relu(x)")
    calibration = Calibration.from_photos(folder, half, SPEC)
    assert next(calibration.feeds(calibration.fitting))["x"].dtype == np.float16


def test_too_few_photos_are_refused(tmp_path: Path, net: gs.Graph) -> None:
    with pytest.raises(InputError, match="no folder"):
        Calibration.from_photos(tmp_path / "missing", net, SPEC)
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(InputError, match="holds 0 photos"):
        Calibration.from_photos(tmp_path, net, SPEC)


def test_made_up_images_differ_and_fill_the_range(net: gs.Graph) -> None:
    made = Calibration.synthetic(net, SPEC, count=5)
    feeds = [feed["x"] for feed in made.feeds([*made.fitting, *made.held_out])]
    assert made.made_up
    assert len(feeds) == 5
    assert not np.allclose(feeds[0], feeds[1])
    assert 0.3 < np.asarray(feeds[0][..., 6:-6], np.float32).std() < 3


def test_spoiled_weights_are_recovered(folder: Path, net: gs.Graph) -> None:
    """However wrong the weights are, least squares finds those that made the target."""
    calibration = Calibration.from_photos(folder, net, SPEC)
    changed = spoiled(net)
    report = reconstruct(changed, net, calibration, ridge=1e-8)
    assert [fit.accepted for fit in report.layers] == [True] * 4
    assert report.before > 0.1
    assert report.after < 1e-3
    assert report.images == 8
    for ours, theirs in zip(changed.nodes, net.nodes, strict=True):
        if ours.op == "Conv":
            assert np.abs(values_of(ours.inputs[1]) - values_of(theirs.inputs[1])).max() < 0.05


def test_a_replaced_activation_is_made_up_for(folder: Path, net: gs.Graph) -> None:
    """Errors of earlier layers are corrected by later ones, on images that were not fitted on."""
    calibration = Calibration.from_photos(folder, net, SPEC)
    changed = net.copy()
    relu = next(node for node in changed.nodes if node.op == "Relu")
    relu.op, relu.attrs = "LeakyRelu", {"alpha": 0.3}
    report = reconstruct(changed, net, calibration)
    assert report.after < 0.8 * report.before
    assert report.layers[0].node == "d"  # the layer before it is as it was


def test_worse_weights_are_not_taken(folder: Path, net: gs.Graph) -> None:
    calibration = Calibration.from_photos(folder, net, SPEC)
    changed = spoiled(net, 0.05)
    work = Reconstruction(changed, net, calibration, ridge=1e-8)
    (first, *_) = work.sites()
    assert isinstance(first, gs.Node)
    kept = first.inputs[1]
    # What the images that are fitted on teach is nonsense.
    rng = np.random.default_rng(3)
    for sample in work._samples[first.outputs[0].name][: work.count]:
        sample.values[...] = rng.standard_normal(sample.values.shape)
    assert not work.fit(first).accepted
    assert first.inputs[1] is kept


def test_zero_blocks_are_kept(folder: Path, net: gs.Graph) -> None:
    """Blocks of zeros of any extent count, at a weight's border too; single zeros do not."""
    calibration = Calibration.from_photos(folder, net, SPEC)
    changed = net.copy()
    pruned = values_of(changed.nodes[-1].inputs[1]).copy()  # 19 filters, 12 channels
    blocks = np.zeros(pruned.shape, bool)
    blocks[:8, 4:8] = blocks[16:, :4] = blocks[8:12, 8:] = True
    pruned[blocks] = pruned[12:14, 9] = 0
    changed.nodes[-1].inputs[1] = constant(changed, "pruned", pruned)
    report = reconstruct(changed, net, calibration)
    fitted = known(Convolution.of(changed.nodes[-1])).weight
    assert [fit.accepted for fit in report.layers] == [True]
    np.testing.assert_array_equal(fitted == 0, blocks)
    assert np.mean(fitted[~blocks] != pruned[~blocks]) > 0.97


def test_only_what_is_positive_counts_before_a_relu(network: MakeGraph, normal: Normal) -> None:
    """Weights that cannot make the target come closer to what is left of it behind the Relu."""
    sizes = "float[1,8,5,5] x", "float[1,6,5,5] y"
    spec = Convolution.of(network(*sizes, "y = Conv(x, w)", w=normal(6, 8, 1, 1)).nodes[0])
    seen, hidden = normal(1, 400, 8), normal(1, 400, 8)
    target = seen @ normal(8, 6) + hidden @ normal(8, 6)
    pairs = [(np.concatenate([seen, np.ones_like(seen[..., :1])], axis=2), target)]
    errors = []
    for rectified in (False, True):
        system = LeastSquares(known(spec), 1e-8)
        system.add(*pairs[0])
        solution = system.solve(rectified=rectified)
        errors.append([error_within(solution, pairs, rectified=r) for r in (False, True)])
    linear, behind = errors
    assert behind[1] < 0.97 * linear[1]
    assert behind[0] > linear[0]


def test_few_images_at_a_time_where_memory_is_short(
    folder: Path, net: gs.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And few tensors at a time of each: the survey of a large network would not fit either."""
    calibration = Calibration.from_photos(folder, net, SPEC)
    at_once, taken = 15_000, []
    run = OnnxRuntimeEngine.run

    def watched(engine: OnnxRuntimeEngine, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = run(engine, feeds)
        taken.append([v.nbytes for name, v in values.items() if name in "adg"])
        return values

    monkeypatch.setattr("graphopt.fitting.reconstruct.MEMORY", 30_000)
    monkeypatch.setattr("graphopt.fitting.reconstruct.AT_ONCE", at_once)
    monkeypatch.setattr(OnnxRuntimeEngine, "run", watched)
    report = reconstruct(spoiled(net), net, calibration)
    assert 1 <= report.images < 8
    assert report.after < report.before
    assert len(report.layers) == 4
    assert max(map(sum, taken)) <= at_once


def test_what_has_no_counterpart_is_skipped(folder: Path, net: gs.Graph) -> None:
    changed = spoiled(net)
    changed.nodes[2].outputs[0].name = "renamed"
    report = reconstruct(changed, net, Calibration.from_photos(folder, net, SPEC))
    assert [skip.node for skip in report.skips] == ["renamed"]
    assert "has no tensor of that name" in report.skips[0].reason
    assert len(report.layers) == 3


def test_the_pass(folder: Path, net: gs.Graph) -> None:
    (chosen,) = parse_pipeline("reconstruct{ridge=0.001, photos=4, checkpoint=%s}" % (folder / "c"))
    calibration = Calibration.from_photos(folder, net, SPEC)
    changed = spoiled(net)
    before = output_error(changed, net, calibration.feeds(calibration.held_out))
    seen: list[Any] = []
    outcome = chosen.run(changed, Context(net, calibration, progress=seen.append))
    assert len(outcome.changes) == 4
    assert seen[1] == "reconstruct: 2 of 4 (d)"
    assert (folder / "c").is_file()
    after = output_error(changed, net, calibration.feeds(calibration.held_out))
    assert after < before / 2
    assert not Reconstruct().run(net.copy(), Context(net, calibration)).changes
    with pytest.raises(InputError, match="no images"):
        Reconstruct().run(net, Context(original=net))


@pytest.mark.parametrize("group", [1, 2])
def test_a_stack_is_fitted_through_its_last_layer(
    folder: Path, network: MakeGraph, normal: Normal, group: int
) -> None:
    """A large kernel becomes a stack of 3x3; only the last of them has a counterpart."""
    sizes = "float[1,3,24,32] x", "float[1,19,24,32] y"
    deep = """c = Conv<pads=[1,1,1,1]>(x, w0) r = Relu(c)
              a = Conv<pads=[2,2,2,2], group=G>(r, w1, b1) m = Conv(a, w2) s = Relu(m)
              y = Conv(s, w4)""".replace("G", str(group))
    weights = {"w0": normal(8, 3, 3, 3), "w1": normal(12, 8 // group, 3, 3), "b1": normal(12)}
    weights |= {"w2": normal(10, 12, 3, 3), "w4": normal(19, 10, 1, 1)}
    graph = network(*sizes, deep, **weights)
    changed = spoiled(graph, 0.5)
    for name in ("c", "y"):  # only the stack is spoiled
        theirs = next(n for n in graph.nodes if n.outputs[0].name == name)
        next(n for n in changed.nodes if n.outputs[0].name == name).inputs[1] = theirs.inputs[1]
    next(n for n in changed.nodes if n.outputs[0].name == "a").outputs[0].name = "inner"
    report = reconstruct(changed, graph, Calibration.from_photos(folder, graph, SPEC), ridge=1e-6)
    assert not report.skips
    inner, last, *_ = report.layers
    assert inner.node in ("a", "inner")
    assert inner.after < 0.6 * inner.before
    assert last.before == pytest.approx(inner.after, rel=0.2)
    assert last.after < 0.3 * inner.before
    assert report.after < 0.3 * report.before


def test_fits_that_leave_the_outputs_worse_are_taken_back(
    folder: Path, net: gs.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = Calibration.from_photos(folder, net, SPEC)
    changed = spoiled(net)
    kept = [values_of(node.inputs[1]) for node in changed.nodes if node.op == "Conv"]
    solve = "graphopt.fitting.reconstruct.LeastSquares.solve"
    monkeypatch.setattr(solve, lambda system, **_: 3 * system.present)
    monkeypatch.setattr("graphopt.fitting.reconstruct.LayerFit.accepted", True)
    outcome = Reconstruct().run(changed, Context(net, calibration))
    assert not outcome.changes
    assert len(outcome.skips) == 4
    assert all("taken back" in skip.reason for skip in outcome.skips)
    now = [values_of(node.inputs[1]) for node in changed.nodes if node.op == "Conv"]
    assert all(a is b for a, b in zip(now, kept, strict=True))


def large_kernel_and_stack(network: MakeGraph, normal: Normal) -> tuple[gs.Graph, gs.Graph]:
    """A 5x5 layer between two others, and the network with two spoiled 3x3 layers in its place."""
    sizes = "float[1,3,24,32] x", "float[1,19,24,32] y"
    weights = {"w0": normal(8, 3, 3, 3), "w4": normal(19, 10, 1, 1)}
    body = "c = Conv<pads=[1,1,1,1]>(x, w0) r = Relu(c) {} s = Relu(m) y = Conv(s, w4)"
    large = body.format("m = Conv<pads=[2,2,2,2]>(r, w1)")
    stack = body.format("a = Conv<pads=[1,1,1,1]>(r, w1, b1) m = Conv<pads=[1,1,1,1]>(a, w2)")
    return network(*sizes, large, **weights, w1=normal(10, 8, 5, 5)), spoiled(
        network(
            *sizes,
            stack,
            **weights,
            w1=normal(12, 8, 3, 3),
            b1=normal(12),
            w2=normal(10, 12, 3, 3),
        )
    )


def test_goes_on_where_it_was_interrupted(
    folder: Path,
    network: MakeGraph,
    normal: Normal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fits that were taken, refused and made through others are all recalled, bit for bit."""
    graph, changed = large_kernel_and_stack(network, normal)
    calibration = Calibration.from_photos(folder, graph, SPEC)
    file = tmp_path / "state" / "fits.npz"
    solved = []
    solve = LeastSquares.solve

    def watched(system: LeastSquares, **options: Any) -> Any:
        solved.append(system)
        return solve(system, **options)

    monkeypatch.setattr(LeastSquares, "solve", watched)

    def run(stop_at: str | None = None, checkpoint: Path | None = None) -> tuple[Any, ...]:
        seen: list[Any] = []

        def progress(text: str) -> None:
            seen.append(text)
            if stop_at and stop_at in text:
                raise KeyboardInterrupt

        ours = changed.copy()
        solved.clear()
        report = reconstruct(ours, graph, calibration, checkpoint=checkpoint, progress=progress)
        return weights_of(ours), report, seen

    whole, expected, seen = run()
    assert [text.partition(" (")[0] for text in seen] == [
        f"reconstruct: {count} of 4" for count in (1, 2, 3, 4)
    ]
    assert len(solved) == 3  # the fourth is fitted through another
    with pytest.raises(KeyboardInterrupt):
        run("4 of 4", file)
    weights, report, _ = run(None, file)
    assert len(solved) == 1
    assert report.layers == expected.layers
    assert report.after == expected.after
    assert weights.keys() == whole.keys()
    assert all(weights[name].tobytes() == whole[name].tobytes() for name in whole)
    assert len(run(None, file)[1].layers) == 4
    assert not solved


def weights_of(graph: gs.Graph) -> dict[str, np.ndarray]:
    return {
        f"{node.outputs[0].name}.{position}": values_of(tensor)
        for node in graph.nodes
        if node.op == "Conv"
        for position, tensor in enumerate(node.inputs[1:])
    }


def test_a_refused_fit_is_recalled(
    folder: Path, net: gs.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = Calibration.from_photos(folder, net, SPEC)
    monkeypatch.setattr(LeastSquares, "solve", lambda system, **_: 2 * system.present)
    file = tmp_path / "fits.npz"
    for _ in range(2):
        changed = spoiled(net, 0.05)
        kept = weights_of(changed)
        report = reconstruct(changed, net, calibration, checkpoint=file)
        assert not any(fit.accepted for fit in report.layers)
        assert all(v is kept[name] for name, v in weights_of(changed).items())
        monkeypatch.setattr(LeastSquares, "solve", None)


def test_nothing_is_recalled_behind_a_layer_that_is_left_out(
    folder: Path, net: gs.Graph, tmp_path: Path
) -> None:
    calibration = Calibration.from_photos(folder, net, SPEC)
    file = tmp_path / "fits.npz"
    reconstruct(spoiled(net), net, calibration, checkpoint=file)
    kept = file.read_bytes()
    results = []
    for checkpoint in (None, file):
        changed = spoiled(net)
        work = Reconstruction(changed, net, calibration, checkpoint=checkpoint)
        for node in list(work.sites())[1:]:
            assert isinstance(node, gs.Node)
            work.fit(node)
        results.append(weights_of(changed))
    first, second = results
    assert all((first[name] == second[name]).all() for name in first)
    assert file.read_bytes() == kept


def test_what_was_kept_for_another_run_is_refused(
    folder: Path, net: gs.Graph, tmp_path: Path
) -> None:
    calibration = Calibration.from_photos(folder, net, SPEC)
    file = tmp_path / "fits.npz"
    reconstruct(spoiled(net), net, calibration, checkpoint=file)
    few = replace(calibration, fitting=calibration.fitting[:-1])
    cases: tuple[tuple[gs.Graph, Calibration, dict[str, Any]], ...] = (
        (spoiled(net, 0.2), calibration, {}),
        (spoiled(net), few, {}),
        (spoiled(net), calibration, {"seed": 1}),
    )
    for changed, images, options in cases:
        with pytest.raises(InputError, match=r"fits\.npz is the checkpoint of another network"):
            reconstruct(changed, net, images, checkpoint=file, **options)
    for content in (b"no archive", file.read_bytes()[:-200], npz(other=np.zeros(3))):
        file.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as a checkpoint"):
            reconstruct(spoiled(net), net, calibration, checkpoint=file)


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def test_the_seed_chooses_the_positions(
    folder: Path, net: gs.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = Calibration.from_photos(folder, net, SPEC)
    monkeypatch.setattr("graphopt.fitting.reconstruct.LEAST_POSITIONS", 64)
    monkeypatch.setattr("graphopt.fitting.reconstruct.POSITIONS_PER_UNKNOWN", 1)
    first, again, other = (spoiled(net) for _ in range(3))
    for changed, seed in ((first, 0), (again, 0), (other, 1)):
        reconstruct(changed, net, calibration, seed=seed)
    a, b, c = map(weights_of, (first, again, other))
    assert all((a[name] == b[name]).all() for name in a)
    assert any((a[name] != c[name]).any() for name in a)


@pytest.mark.assets
def test_a_trained_network_recovers(efficientpose: Path, assets: Path) -> None:
    graph = load_model(efficientpose)
    calibration = Calibration.from_photos(
        assets / "coco" / "unlabelled", graph, detect_pose_spec(graph), count=25
    )
    changed = graph.copy()
    for chosen in parse_pipeline("canonicalize, replace-swish"):
        chosen.run(changed)
    report = reconstruct(changed, graph, calibration, photos=20)
    assert report.after < 0.7 * report.before
