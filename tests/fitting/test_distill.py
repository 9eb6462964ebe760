"""Networks as PyTorch modules, and fine-tuning against the original."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from known import constant_in, values_of
from noise_lessons import calibration_on_noise

from graphopt.errors import InputError, Unsupported
from graphopt.fitting.calibration import Calibration
from graphopt.fitting.distill import distill
from graphopt.fitting.distill_options import DistillOptions, Precision
from graphopt.fitting.distillation_data import DistillationData
from graphopt.ir.onnx_io import load_model, to_proto
from graphopt.optimizer.pass_contract import Context
from graphopt.passes.distill import Distill
from graphopt.runtime.engine import OnnxRuntimeEngine

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra [distill])")

from graphopt.fitting import whitening
from graphopt.fitting.row_momentum import RowMomentum
from graphopt.fitting.teacher import Teacher
from graphopt.fitting.torch_operators import TORCH_OPERATORS
from graphopt.fitting.torchnet import TorchNet

Proto = Callable[..., onnx.ModelProto]
rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1), np.float32)


@pytest.fixture
def network(proto: Proto, tmp_path: Path) -> Callable[..., gs.Graph]:
    def make(body: str, outputs: str = "float[1,c,h,v] y", **constants: np.ndarray) -> gs.Graph:
        onnx.save(proto("float[1,3,12,16] x", outputs, body, **constants), tmp_path / "net.onnx")
        return load_model(tmp_path / "net.onnx")

    return make


BODIES = {
    "convolutions": """a = Conv<pads=[1,0,2,1], strides=[2,1], dilations=[1,2]>(x, w3, b4)
                       r = Relu(a)
                       y = Conv<group=4>(r, wd)""",
    "dilated": """a = Conv<pads=[1,2,2,3], dilations=[2,3]>(x, w3, b4)
                  y = Conv<group=4, pads=[3,5,3,5], dilations=[3,5]>(a, wd)""",
    "SAME": 'y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, w3)',
    "of one axis": """r = Reshape(x, rows) a = Conv<auto_pad="VALID">(r, w1)
                      b = Conv<auto_pad="SAME_UPPER", strides=[2]>(a, w1)
                      c = Conv<pads=[2,1], dilations=[2]>(b, w1) y = Unsqueeze(c, axis)""",
    "transposed": "a = Conv(x, w3) y = ConvTranspose<strides=[2,2], output_padding=[1,0]>(a, wt)",
    "activations": """a = Elu<alpha=0.5>(x) b = LeakyRelu(a) c = Clip(b, low) d = Sigmoid(c)
                      e = HardSwish(d) f = Tanh(e) g = Exp(f) y = Identity(g)""",
    "arithmetic": """a = Mul(x, v) b = Sub(a, v) c = Div(b, v) d = Max(c, x) e = Min(d, v)
                     y = Sum(e, x, v)""",
    "pools": """a = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,0,0]>(x)
                b = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)
                c = AveragePool<kernel_shape=[2,2], ceil_mode=1, strides=[2,2]>(b)
                g = GlobalAveragePool(c)
                y = Mul(c, g)""",
    "more activations": """a = HardSigmoid<alpha=0.3>(x) b = Softplus(a) c = Neg(b) d = Abs(c)
                           e = PRelu(c, v) f = Sqrt(d) g = Erf(e) y = Add(f, g)""",
    "resizing": """a = Resize<mode="linear">(x, , twice)
                   b = Resize<mode="nearest", coordinate_transformation_mode="asymmetric",
                              nearest_mode="floor">(a, , twice)
                   c = Resize<mode="linear",
                              coordinate_transformation_mode="asymmetric">(b, , , odd)
                   y = Resize<mode="linear">(c, , , size)""",
    "shapes": """a = Reshape(x, shape) b = Transpose<perm=[0,2,1]>(a) c = Unsqueeze(b, axis)
                 d = Squeeze(c, axis) e = Slice(d, start, stop, axis)
                 f = Pad(e, pads, low) g = Concat<axis=1>(f, f) y = Unsqueeze(g, axis)""",
    "normalised": "y = BatchNormalization(x, v3, v3, v3, v3)",
}
CONSTANTS = {
    "w3": normal(4, 3, 3, 3),
    "b4": normal(4),
    "wd": normal(4, 1, 3, 3),
    "wt": normal(4, 2, 3, 3),
    "low": np.float32(-0.3),
    "v": 1 + np.abs(normal(3, 1, 1)),
    "v3": 1 + np.abs(normal(3)),
    "twice": np.array([1, 1, 2, 2], np.float32),
    "size": np.array([1, 3, 24, 32]),
    "odd": np.array([1, 3, 72, 100]),
    "shape": np.array([0, 3, -1]),
    "axis": np.array([1]),
    "start": np.array([3]),
    "stop": np.array([100]),
    "pads": np.array([0, 1, 0, 0, 2, 0]),
    "rows": np.array([0, 4, -1]),
    "w1": normal(4, 4, 3),
}


@pytest.mark.parametrize("name", BODIES)
def test_modules_compute_what_onnxruntime_does(name: str, network: Callable[..., gs.Graph]) -> None:
    graph = network(BODIES[name], **CONSTANTS)
    x = rng.standard_normal((1, 3, 12, 16)).astype(np.float32)
    engine = OnnxRuntimeEngine(to_proto(graph).SerializeToString())
    expected: np.ndarray = engine.run({"x": x})["y"]
    with torch.no_grad():
        got = TorchNet(graph)({"x": torch.from_numpy(x)})["y"].numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_batch_although_the_network_was_exported_for_one(
    network: Callable[..., gs.Graph],
) -> None:
    one = np.array([1, 3, 1, 1])
    body = "g = GlobalAveragePool(x) s = Reshape(g, one) y = Mul(x, s)"
    net = TorchNet(network(body, one=one))
    x = torch.from_numpy(rng.standard_normal((2, 3, 12, 16)).astype(np.float32))
    both = net({"x": x})["y"]
    for index in range(2):
        alone = net({"x": x[index : index + 1]})["y"]
        np.testing.assert_allclose(both[index : index + 1], alone, rtol=1e-5)


def test_bfloat16_is_for_all_between_inputs_and_outputs(
    network: Callable[..., gs.Graph],
) -> None:
    """But for scales of a Resize, which a rounded number would make another size."""
    body = """a = Conv(x, w3, b4) r = Relu(a) d = Conv<group=4>(r, wd)
              y = Resize<mode="linear", coordinate_transformation_mode="asymmetric">(d, , odd)"""
    odd = np.array([1, 1, 2.51, 3.01], np.float32)
    net = TorchNet(network(body, **(CONSTANTS | {"odd": odd})))
    x = torch.from_numpy(rng.standard_normal((1, 3, 12, 16)).astype(np.float32))
    seen: dict[bool, dict[str, torch.Tensor]] = {False: {}, True: {}}
    outputs = {
        bfloat16: net(
            {"x": x}, lambda n, _, y, v=values: v.update({n.outputs[0].name: y}), bfloat16=bfloat16
        )["y"]
        for bfloat16, values in seen.items()
    }
    assert all(y.dtype == torch.float32 for y in (*seen[False].values(), *outputs.values()))
    assert all(y.dtype == torch.bfloat16 for y in seen[True].values())
    assert outputs[True].shape == outputs[False].shape
    for name, exact in seen[False].items():
        assert 1e-4 < (seen[True][name] - exact).abs().max() < 0.1
    assert all(values.dtype == torch.float32 for values in net.values.values())


def test_numbers_for_each_channel_are_trained(network: Callable[..., gs.Graph]) -> None:
    """Slopes and offsets of gates are; one number for all, and maps that are added, are not."""
    body = "i = Conv(x, w) a = Mul(i, v) b = Add(a, o) c = Mul(b, half) y = Add(c, map)"
    values = {"w": normal(3, 3, 1, 1), "v": normal(3, 1, 1), "o": normal(1, 3, 1, 1)}
    graph = network(body, half=np.float32(0.5), map=normal(3, 12, 16), **values)
    assert set(TorchNet(graph).parameter_names) == set(values)


def test_how_photos_are_normalised_is_not_trained(network: Callable[..., gs.Graph]) -> None:
    """It is read off the graph, as channel order and border are: they must not change with it."""
    body = "a = Mul(x, scale) b = Add(a, shift) c = Conv(b, w3) y = Mul(c, slope)"
    values = {name: normal(1, n, 1, 1) for name, n in [("scale", 3), ("shift", 3), ("slope", 4)]}
    net = TorchNet(network(body, w3=CONSTANTS["w3"], **values))
    assert set(net.parameter_names) == {"w3", "slope"}


def test_normalisations_learn_if_they_are_to(network: Callable[..., gs.Graph]) -> None:
    """By the batch's statistics, which are averaged for later; not those of the input itself."""
    values = {f"{name}{n}": np.ones(n, np.float32) for name in "svb" for n in (3, 4)}
    values |= {f"m{n}": np.zeros(n, np.float32) for n in (3, 4)}
    body = """a = BatchNormalization(x, s3, b3, m3, v3) c = Conv(a, w3)
              y = BatchNormalization(c, s4, b4, m4, v4)"""
    graph = network(body, w3=5 * CONSTANTS["w3"], **values)
    x = torch.from_numpy(rng.standard_normal((4, 3, 12, 16)).astype(np.float32))
    assert set(TorchNet(graph).parameter_names) == {"w3"}
    net = TorchNet(graph, norms=True)
    assert set(net.parameter_names) == {"w3", "s4", "b4"}
    with torch.no_grad():
        for _ in range(60):
            learned = net({"x": x})["y"]
        assert abs(learned.std() - 1) < 0.01
        later = net.eval()({"x": x})["y"].numpy()
    np.testing.assert_allclose(later, learned, atol=0.02)
    net.write_back()
    engine = OnnxRuntimeEngine(to_proto(graph).SerializeToString())
    written: np.ndarray = engine.run({"x": x[:1].numpy()})["y"]
    np.testing.assert_allclose(written, later[:1], atol=1e-4)
    assert (values_of(graph.tensors()["m3"]) == 0).all()


@pytest.fixture
def pruned(
    network: Callable[..., gs.Graph], monkeypatch: pytest.MonkeyPatch
) -> tuple[TorchNet, torch.Tensor]:
    """A 3x3 convolution, half of whose filters lack three of the four channels, and its input."""
    monkeypatch.setattr(whitening, "RIDGE", 1e-4)
    w = normal(8, 4, 3, 3)
    w[4:, 1:] = 0
    net = TorchNet(
        network("a = Conv(x, w1) y = Conv<pads=[0,1,1,0]>(a, w)", w1=normal(4, 3, 1, 1), w=w)
    )
    return net, torch.from_numpy(rng.standard_normal((8, 3, 12, 16)).astype(np.float32))


def test_in_their_coordinates_inputs_are_independent(pruned: tuple[TorchNet, torch.Tensor]) -> None:
    net, x = pruned
    full, less = sorted(whitening.whiten(net, [{"x": x}]), key=lambda part: -len(part.columns))
    assert (full.rows.tolist(), less.rows.tolist()) == ([0, 1, 2, 3], [4, 5, 6, 7])
    seen = torch.nn.functional.pad(
        torch.nn.functional.conv2d(x, net.values[net.parameter_names["w1"]]), (1, 0, 0, 1)
    )
    seen = torch.nn.functional.unfold(seen, 3).transpose(1, 2).flatten(0, 1)
    for part, tolerance in ((full, 0.01), (less, 0.001)):
        new = seen[:, part.columns] @ part.basis
        covariance = new.t() @ new / len(new)
        # The channels are mixtures of three: some directions do not occur, and are not blown up.
        strength = torch.linalg.eigvalsh(covariance)
        occurs = strength > 0.5
        assert occurs.sum() == (27 if part is full else 9)
        np.testing.assert_allclose(strength[occurs].detach(), 1, atol=0.1)
        assert (strength[~occurs] < tolerance).all()


def test_steps_in_coordinates_are_steps_of_the_weights(
    pruned: tuple[TorchNet, torch.Tensor],
) -> None:
    net, x = pruned
    parts = whitening.whiten(net, [{"x": x}])
    was = net.values[net.parameter_names["w"]].detach().clone()

    def loss() -> torch.Tensor:
        return (net({"x": x})["y"] ** 2).mean()

    before = loss()
    before.backward()
    slope = 0.0
    for part in parts:
        part.gather(net.values)
        with torch.no_grad():
            part.moved.sub_(1e-3 * part.moved.grad)
        slope += 1e-3 * float(part.moved.grad.square().sum())
        part.scatter(net.values)
        assert not part.moved.any()
    assert (before - loss()).item() == pytest.approx(slope, rel=0.02)
    change = net.values[net.parameter_names["w"]].detach() - was
    assert change[:4].all()
    assert change[4:, 0].all()
    assert not change[4:, 1:].any()


def test_short_and_very_long_sums_keep_their_coordinates(
    network: Callable[..., gs.Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "a = Conv(x, w3) b = Conv<group=4>(a, wd) y = Conv(b, w4)"
    net = TorchNet(network(body, **CONSTANTS, w4=normal(2, 4, 4, 4)))
    monkeypatch.setattr(whitening, "LEAST", 28)
    batches = [{"x": torch.zeros(1, 3, 12, 16)}]
    assert {p.key for p in whitening.whiten(net, batches)} == {net.parameter_names["w4"]}
    monkeypatch.setattr(whitening, "MOST", 63)
    assert not whitening.whiten(net, batches)


def test_an_operator_that_cannot_be_trained_is_named(network: Callable[..., gs.Graph]) -> None:
    with pytest.raises(Unsupported, match="LpNormalization cannot be trained"):
        TorchNet(network("y = LpNormalization(x)"))


@pytest.fixture
def lesson(proto: Proto, tmp_path: Path) -> tuple[gs.Graph, gs.Graph, Calibration]:
    """A teacher, a damaged and pruned copy of it, and photos."""
    body = """a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1, b1)
              r = Relu(a)
              y = Conv<pads=[1,1,1,1]>(r, w2, b2)"""
    model = proto(
        "float[1,3,h,v] x",
        "float[1,19,p,q] y",
        body,
        w1=normal(8, 3, 3, 3),
        b1=normal(8),
        w2=normal(19, 8, 3, 3),
        b2=normal(19),
    )
    onnx.save(model, tmp_path / "teacher.onnx")
    teacher = load_model(tmp_path / "teacher.onnx")
    student = teacher.copy()
    weight = next(n for n in student.nodes if n.outputs[0].name == "y").inputs[1]
    constant_in(weight).values = values_of(weight) * rng.uniform(0.5, 1.5, weight.shape).astype(
        np.float32
    )
    values_of(weight)[:8] = 0
    values_of(weight)[9, 3] = 0  # no block: trained like the others
    return teacher, student, calibration_on_noise(tmp_path, teacher, rng)


def test_nothing_to_train_is_said(
    network: Callable[..., gs.Graph], lesson: tuple[gs.Graph, gs.Graph, Calibration]
) -> None:
    bare = network("y = Relu(x)")
    calibration = replace(lesson[2], shape=(12, 16))
    with pytest.raises(InputError, match="nothing to train"):
        distill(bare, bare, calibration, OPTIONS)


OPTIONS = DistillOptions(steps=60, batch=2, crop=32, rate=2e-2, warm_up=5, check_every=20)


def weights(graph: gs.Graph) -> dict[str, np.ndarray]:
    return {n: t.values for n, t in graph.tensors().items() if isinstance(t, gs.Constant)}


def test_comes_closer_and_keeps_zero_blocks(lesson: tuple[gs.Graph, gs.Graph, Calibration]) -> None:
    teacher, student, calibration = lesson
    was = {name: values.copy() for name, values in weights(student).items()}
    result, report = distill(student, teacher, calibration, OPTIONS)
    assert report.after < 0.8 * report.before
    assert report.steps == 60
    assert not weights(result)["w2"][:8].any()
    assert weights(result)["w2"][9, 3].all()
    assert np.abs(weights(result)["w2"][8:] - was["w2"][8:]).max() > 1e-3
    for name, values in weights(student).items():
        np.testing.assert_array_equal(values, was[name])


def test_the_pass_puts_trained_weights_into_the_graph(
    lesson: tuple[gs.Graph, gs.Graph, Calibration],
) -> None:
    teacher, student, calibration = lesson
    chosen = Distill(steps=60, batch=2, crop=32, rate=2e-2)
    outcome = chosen.run(student, Context(original=teacher, calibration=calibration))
    assert len(outcome.changes) == 2
    assert not weights(student)["w2"][:8].any()
    (skip,) = outcome.skips
    assert "error on held-out crops" in skip.reason


def test_the_pass_learns_from_a_file(
    lesson: tuple[gs.Graph, gs.Graph, Calibration], tmp_path: Path
) -> None:
    teacher, student, calibration = lesson
    chosen = Distill(steps=20, batch=2, crop=32, rate=2e-2, teacher=str(tmp_path / "teacher.onnx"))
    options = DistillOptions(steps=20, batch=2, crop=32, rate=2e-2)
    expected, _ = distill(student, teacher, calibration, options)
    chosen.run(student, Context(original=student.copy(), calibration=calibration))
    for name, values in weights(expected).items():
        np.testing.assert_array_equal(weights(student)[name], values)
    with pytest.raises(InputError, match="no-such"):
        Distill(teacher="no-such.onnx").run(student, Context(calibration=calibration))


def test_the_pass_asks_for_photos(lesson: tuple[gs.Graph, gs.Graph, Calibration]) -> None:
    _, student, _ = lesson
    with pytest.raises(InputError, match="no photos to train on"):
        Distill().run(student, Context(original=student))


def test_every_step_has_crops_of_its_own(
    lesson: tuple[gs.Graph, gs.Graph, Calibration],
) -> None:
    teacher, _, calibration = lesson
    engine = OnnxRuntimeEngine(to_proto(teacher).SerializeToString())
    lessons = DistillationData(Teacher(teacher), calibration, batch=4, crop=32, seed=3)
    late, early = lessons[40], lessons[1]
    again = DistillationData(Teacher(teacher), calibration, batch=4, crop=32, seed=3)
    for one, other in ((early, again[1]), (late, again[40])):
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(one.targets["y"], other.targets["y"])
    assert len({crop.tobytes() for step in range(20) for crop in lessons[step].x}) == 80
    for x, target in zip(early.x, early.targets["y"], strict=True):
        expected = engine.run({"x": x[None]})["y"][0]
        np.testing.assert_allclose(target, expected, atol=1e-5 * np.abs(expected).max())


def test_processes_share_a_batch(lesson: tuple[gs.Graph, gs.Graph, Calibration]) -> None:
    teacher, _, calibration = lesson
    whole = DistillationData(Teacher(teacher), calibration, batch=4, crop=32, seed=3)
    for which in range(2):
        part = replace(whole, share=(which, 2))
        np.testing.assert_array_equal(part[7].x, whole[7].x[which::2])


def test_a_teacher_that_cannot_be_trained_is_run_all_the_same(
    network: Callable[..., gs.Graph],
) -> None:
    graph = network("y = LpNormalization(x)")
    x = rng.standard_normal((3, 3, 12, 16)).astype(np.float32)
    got = Teacher(graph)(x, bfloat16=True)["y"]
    np.testing.assert_allclose(got, x / np.linalg.norm(x, axis=-1, keepdims=True), rtol=1e-5)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_weights(
    lesson: tuple[gs.Graph, gs.Graph, Calibration],
) -> None:
    teacher, student, calibration = lesson
    first, second = (distill(student, teacher, calibration, OPTIONS)[0] for _ in range(2))
    for name, values in weights(first).items():
        np.testing.assert_array_equal(values, weights(second)[name])


def test_goes_on_from_a_checkpoint(
    lesson: tuple[gs.Graph, gs.Graph, Calibration], tmp_path: Path
) -> None:
    teacher, student, calibration = lesson
    file = tmp_path / "state.pt"
    seen: list[str] = []

    def interrupt(line: str) -> None:
        seen.append(line)
        if "41 of 60" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(student, teacher, calibration, OPTIONS, checkpoint=file, progress=interrupt)
    assert seen[0].startswith("distill: 1 of 60 (error ")
    seen.clear()
    resumed, report = distill(
        student, teacher, calibration, OPTIONS, checkpoint=file, progress=seen.append
    )
    whole, expected = distill(student, teacher, calibration, OPTIONS)
    assert seen[0].startswith("distill: 41 of 60")
    assert (report.steps, report.before, report.after) == (60, expected.before, expected.after)
    for name, values in weights(whole).items():
        np.testing.assert_array_equal(weights(resumed)[name], values)
    longer = replace(OPTIONS, steps=80)
    assert distill(student, teacher, calibration, longer, checkpoint=file)[1].steps == 80


def test_the_checkpoint_of_another_run_is_refused(
    lesson: tuple[gs.Graph, gs.Graph, Calibration], tmp_path: Path
) -> None:
    teacher, student, calibration = lesson
    file = tmp_path / "state.pt"
    short = replace(OPTIONS, steps=2)
    distill(student, teacher, calibration, short, checkpoint=file)
    with pytest.raises(InputError, match="checkpoint of another network"):
        distill(teacher, teacher, calibration, short, checkpoint=file)
    with pytest.raises(InputError, match="other options"):
        distill(student, teacher, calibration, replace(short, batch=3), checkpoint=file)
    for content in (b"no checkpoint", file.read_bytes()[:1000]):
        file.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as a checkpoint"):
            distill(student, teacher, calibration, short, checkpoint=file)
    torch.save({"shapes": [[1]]}, file)
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        distill(student, teacher, calibration, short, checkpoint=file)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_precision_of_training(
    lesson: tuple[gs.Graph, gs.Graph, Calibration],
    precision: Precision,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The judgement is in float32 either way, and weights are no rounded ones."""
    teacher, student, calibration = lesson
    computed = set()
    conv = TORCH_OPERATORS["Conv"]

    def watched(node: gs.Node, inputs: Sequence[torch.Tensor | None]) -> torch.Tensor:
        result = conv(node, inputs)
        computed.add((result.dtype, result.requires_grad))
        return result

    monkeypatch.setitem(TORCH_OPERATORS, "Conv", watched)
    options = replace(OPTIONS, precision=precision)
    result, report = distill(student, teacher, calibration, options)
    # The teacher answers in what the student computes in, but for the judgement.
    lower = getattr(torch, precision)
    assert computed == {(torch.float32, False), (lower, False), (lower, True)}
    assert report.after < 0.8 * report.before
    trained = torch.from_numpy(weights(result)["w1"])
    assert (trained.bfloat16().float() != trained).any()


def test_stops_where_nothing_is_gained(lesson: tuple[gs.Graph, gs.Graph, Calibration]) -> None:
    teacher, _, calibration = lesson
    options = DistillOptions(
        steps=20, batch=1, crop=32, rate=0.1, warm_up=1, check_every=2, patience=2
    )
    result, report = distill(teacher, teacher, calibration, options)
    assert report.stopped_early
    assert report.steps == 14  # the looks at 12 and 14 count
    assert report.after == report.before
    for name, values in weights(result).items():
        np.testing.assert_array_equal(values, weights(teacher)[name])


def test_a_row_moves_as_one() -> None:
    """Its slopes keep their proportions, whatever their size; a longer slope is no longer step."""
    wanted = torch.tensor([[3.0, 0.1, 0.0], [30.0, 1.0, 0.0]])
    steps = []
    for scale in (1, 1000):
        weight = torch.nn.Parameter(torch.zeros(2, 3))
        optimiser = RowMomentum([{"params": [weight], "lr": 0.1}])
        for _ in range(5):
            weight.grad = scale * wanted
            optimiser.step()
        steps.append(-weight.detach() / 5)
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-5)
    np.testing.assert_allclose(steps[0][0], steps[0][1], rtol=1e-5)
    np.testing.assert_allclose(steps[0][:, 1] / steps[0][:, 0], 1 / 30, rtol=1e-5)
    np.testing.assert_allclose(steps[0].square().mean(1).sqrt(), 0.1, rtol=1e-5)
