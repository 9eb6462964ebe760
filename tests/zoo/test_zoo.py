"""Networks built from their definitions: what they cost, and that they run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from known import values_of
from typer.testing import CliRunner

from graphopt.analysis.cost import cost_of
from graphopt.cli import app
from graphopt.errors import InputError
from graphopt.ir.onnx_io import load_model, to_proto
from graphopt.pose.detect import detect_pose_spec
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.zoo import hourglass
from graphopt.zoo.catalogue import ZOO, build, trained

COUNTS = {
    "openpose": (52_311_446, 135.934),
    "lightweight-openpose": (4_091_698, 8.882),
    "efficienthrnet-h3": (5_360_390, 3.759),
    "efficienthrnet-h4": (2_764_706, 1.807),
    "hrnet-w32": (28_536_674, 40.782),
    "higherhrnet-w32": (28_645_331, 46.203),
    "associative-embedding": (138_893_840, 222.210),
}
"""Parameters, and 10^9 multiply-adds, of the authors' own code."""


@pytest.mark.parametrize("name", COUNTS)
def test_published_counts(name: str) -> None:
    cost = cost_of(build(name, seed=None))
    assert (trained(cost), round(cost.macs / 1e9, 3)) == COUNTS[name]


@pytest.mark.parametrize(("depth", "macs"), [(24, 13.68), (36, 16.05), (72, 16.09), (147, 16.46)])
def test_inferred_family(depth: int, macs: float) -> None:
    """Table 1 of Shen et al., and table 2's 6.77 M parameters of the 72 layers."""
    cost = cost_of(build(f"resnet50-{depth}", seed=None))
    assert cost.macs / 1e9 == pytest.approx(macs, rel=0.015)
    layers = [layer for layer in cost.layers if layer.op == "Conv"]
    assert sum(layer.name.startswith("backbone/") for layer in layers) == depth
    assert depth != 72 or trained(cost) / 1e6 == pytest.approx(6.77, rel=0.015)


@pytest.mark.parametrize(
    ("name", "option", "macs"),
    [
        ("openpose", "stages", {1: 43.0, 2: 61.6, 5: 117.3}),
        ("lightweight-openpose", "refinements", {0: 5.5, 2: 12.3, 3: 15.7}),
    ],
)
def test_stages(name: str, option: str, macs: dict[int, float]) -> None:
    for count, giga in macs.items():
        cost = cost_of(build(name, seed=None, options={option: count}))
        assert round(cost.macs / 1e9, 1) == giga


@pytest.mark.parametrize("name", ZOO)
def test_valid_and_running(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Valid ONNX; answers are neither lost nor endless in many layers of random weights."""
    monkeypatch.setattr(hourglass, "STACKS", 1)
    options = {"stages": 2} if name == "openpose" else {}
    size = max(64, ZOO[name].multiple)
    graph = build(name, (1, 3, size, size), options=options)
    proto = to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    image = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    engine = OnnxRuntimeEngine(proto.SerializeToString(), optimize=False)
    outputs = engine.run({"image": image})
    assert {t.name: tuple(t.shape) for t in graph.outputs} == {
        name: values.shape for name, values in outputs.items()
    }
    for values in outputs.values():
        assert 1e-3 < values.std() < 1e2


def test_weights_follow_the_seed() -> None:
    def weight(seed: int) -> np.ndarray:
        return values_of(build("lightweight-openpose", seed=seed).nodes[0].inputs[1])

    assert np.array_equal(weight(1), weight(1))
    assert not np.array_equal(weight(1), weight(2))


def test_command(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    words = ["zoo", "build", "lightweight-openpose", "--refinements", "0", "-o", str(path)]
    done = CliRunner().invoke(app, [*words, "--input-shape", "1,3,64,96"])
    assert done.exit_code == 0, done.output
    graph = load_model(path)
    assert graph.inputs[0].shape == [1, 3, 64, 96]
    assert [n.op for n in graph.nodes].count("BatchNormalization") == 23
    spec = detect_pose_spec(path)
    assert (spec.skeleton.name, spec.heat.output, spec.stride) == ("coco18", "heat", 8)
    assert spec.notes["mean"].how == "metadata"


def test_the_only_input(tmp_path: Path) -> None:
    words = ["zoo", "build", "openpose", "-o", str(tmp_path / "x.onnx"), "--input-shape"]
    assert CliRunner().invoke(app, [*words, "data:1,3,64,64"]).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_list() -> None:
    done = CliRunner().invoke(app, ["zoo", "list", "--json"])
    assert done.exit_code == 0
    assert all(f'"name": "{name}"' in done.stdout for name in ZOO)


@pytest.mark.parametrize(
    ("name", "shape", "options", "complaint"),
    [
        ("alexnet", None, {}, "no network 'alexnet'"),
        ("hrnet-w32", None, {"stages": 1}, "hrnet-w32 has no --stages"),
        ("openpose", None, {"refinements": 1}, "it has --stages"),
        ("openpose", None, {"stages": 7}, "1 to 6 stages, not 7"),
        ("openpose", (1, 1, 64, 64), {}, "1,1,64,64 is not an input of openpose"),
        ("hrnet-w32", (1, 3, 64, 72), {}, "multiples of 32, not 64x72"),
    ],
)
def test_refused(
    name: str, shape: tuple[int, ...], options: dict[str, int], complaint: str
) -> None:
    with pytest.raises(InputError) as refused:
        build(name, shape, options=options)
    assert complaint in str(refused.value)


@pytest.mark.parametrize("name", ["efficienthrnet-h4", "personlab-resnet152"])
def test_networks_of_cocos_key_points_say_so(name: str) -> None:
    """17 heat maps are COCO's, not 16 of MPII with a background."""
    graph = build(name, (1, 3, 128, 160))
    spec = detect_pose_spec(graph)
    assert (spec.skeleton.name, spec.heat.output, spec.paf) == ("coco17", "heat", None)
    assert spec.notes["skeleton"].how == spec.notes["maps"].how == "metadata"
    (heat,) = [output for output in graph.outputs if output.name == "heat"]
    assert round(128 / heat.shape[2]) == spec.stride
