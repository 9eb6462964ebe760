"""What each layer of a bundle multiplies in, and why: `graphopt explain BUNDLE`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from quantised_networks import quantise
from typer.testing import CliRunner

from graphopt.analysis.layer_precision import BundlePrecision, layer_precisions
from graphopt.cli import app
from graphopt.compiler.auto_precision import candidates
from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions

pytestmark = pytest.mark.usefixtures("compile_once")

Proto = Callable[..., onnx.ModelProto]


@pytest.fixture
def network(proto: Proto, tmp_path: Path) -> Path:
    """A plain, a depthwise and a transposed convolution, a gate's, and a pool."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32)

    model = proto(
        "float[1,16,16,16] x",
        "float[1,16,32,32] y, float[1,16,8,8] z, float[1,16,1,1] g",
        """a = Conv(x, w) b = Conv<pads=[1,1,1,1], group=16>(a, d)
           y = ConvTranspose<strides=[2,2]>(b, t)
           z = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
           m = GlobalAveragePool(b) g = Conv(m, v)""",
        w=weight(16, 16, 1, 1),
        d=weight(16, 1, 3, 3),
        t=weight(16, 16, 2, 2),
        v=weight(16, 16, 1, 1),
    )
    for node, name in zip(
        model.graph.node, ("plain", "depth", "up", "pool", "mean", "gate"), strict=True
    ):
        node.name = name
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def told(path: Path, options: CompileOptions = CompileOptions()) -> dict[str, tuple[str, str]]:
    bundle = path.with_suffix(".graphopt")
    compile_model(path, bundle, options)
    return {one.layer: (one.precision, one.why) for one in layer_precisions(bundle).layers}


def test_float32_is_what_was_compiled(network: Path) -> None:
    found = told(network)
    assert set(found) == {"plain", "depth", "up", "gate"}
    assert set(found.values()) == {("float32", "as the bundle was compiled")}


def test_a_layer_of_a_quantised_network_is_in_bytes_or_says_why_not(network: Path) -> None:
    x = np.random.default_rng(1).standard_normal((1, 16, 16, 16), dtype=np.float32)
    path = network.with_name("net8.onnx")
    found = told(quantise(network, path, [{"x": x}], floats=["gate"]))
    assert found["plain"] == ("int8", "in 8 bits in the network")
    assert found["depth"][0] in ("int8", "float32")
    assert found["up"] == ("int8", "in 8 bits in the network")
    assert found["gate"] == ("float32", "the network has it in floats")


def test_a_layer_of_a_bundle_in_bfloat16_says_why_not(network: Path) -> None:
    if "bfloat16" not in candidates(CompileOptions()):
        pytest.skip("this CPU has no bfloat16")
    found = told(network, CompileOptions(precision="bfloat16"))
    assert found["plain"] == ("bfloat16", "as the bundle was compiled")
    assert found["depth"] == ("float32", "depthwise: products in float32, of bfloat16 numbers")
    assert found["up"] == ("bfloat16", "as the bundle was compiled")
    why = "few positions, or no kernel of bfloat16 suits it"
    assert found["gate"] == ("float32", why)
    network.unlink()  # what is known without the network
    bundle = network.with_suffix(".graphopt")
    found = {one.layer: (one.precision, one.why) for one in layer_precisions(bundle).layers}
    assert found["gate"][0] == "float32"
    assert "or the network has it in floats" in found["gate"][1]


def test_bundles_are_explained_without_a_pass(network: Path) -> None:
    told(network)
    bundle = network.with_suffix(".graphopt")
    done = CliRunner().invoke(app, ["explain", str(bundle)])
    assert done.exit_code == 0, done.output
    assert "compiled in float32; layers: 4 in float32" in done.output
    as_json = CliRunner().invoke(app, ["explain", str(bundle), "--json", "-"])
    assert BundlePrecision.from_json(as_json.stdout) == layer_precisions(bundle)
    for wrong in ([bundle, "--pass", "fold-batchnorm"], [network]):
        refused = CliRunner().invoke(app, ["explain", *map(str, wrong)])
        assert refused.exit_code == 2, refused.output
