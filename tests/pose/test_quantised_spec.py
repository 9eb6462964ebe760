"""How a network wants its photos, read through QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.ir.arrays import Array
from graphopt.pose.detect import detect_pose_spec

Proto = Callable[..., onnx.ModelProto]
RNG = np.random.default_rng(0)
CONSTANTS: dict[str, Array] = {
    "w": RNG.integers(-127, 128, (8, 3, 1, 1)).astype(np.int8),
    "v": RNG.integers(-127, 128, (19, 8, 1, 1)).astype(np.int8),
    "u": RNG.integers(-127, 128, (38, 8, 1, 1)).astype(np.int8),
    "s": np.float32(0.05),
    "z": np.uint8(128),
    "k": np.uint8(255),
    "ks": np.float32(1 / 256 / 255),
    "h": np.int8(-64),
    "hs": np.float32(1 / 128),
    "pixel": np.float32(1.0),
    "narrow": np.float32(4.8 / 255),
    "dark": np.uint8(112),
    "unit": np.float32(1 / 255),
    "two": np.float32(1 / 128),
}
HEADS = """
    f = DequantizeLinear(w, s) c = Conv<strides=[4,4]>(n, f)
    cq = QuantizeLinear(c, s, z) cd = DequantizeLinear(cq, s, z)
    g = DequantizeLinear(v, s) a = Conv(cd, g) aq = QuantizeLinear(a, s, z)
    heat = DequantizeLinear(aq, s, z)
    e = DequantizeLinear(u, s) b = Conv(cd, e) bq = QuantizeLinear(b, s, z)
    paf = DequantizeLinear(bq, s, z)"""
OUTPUTS = "float[1,19,16,24] heat, float[1,38,16,24] paf"


def network(proto: Proto, before: str, kind: str = "float", after: str = "") -> onnx.ModelProto:
    """Convolutions of stride 4 with two heads, all quantised; `before` makes `n` of `x`."""
    outputs = OUTPUTS + (", float[1,57,16,24] all" if after else "")
    body = f"{before} {HEADS} {after}"
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    used = {name: value for name, value in CONSTANTS.items() if name in words}
    return proto(f"{kind}[1,3,64,96] x", outputs, body, **used)


def test_an_affine_head_between_roundings(proto: Proto) -> None:
    spec = detect_pose_spec(
        network(
            proto,
            """p = QuantizeLinear(x, pixel) q = DequantizeLinear(p, pixel)
               kd = DequantizeLinear(k, ks) m = Mul(q, kd)
               r = QuantizeLinear(m, ks) t = DequantizeLinear(r, ks)
               hd = DequantizeLinear(h, hs) n = Add(t, hd)""",
        )
    )
    assert spec.preprocess.scale == (1.0,) * 3
    assert spec.preprocess.mean == (0.0,) * 3
    assert spec.preprocess.pad_value == pytest.approx(128, abs=0.6)
    assert spec.notes["scale"].how == "detected"
    assert spec.paf is not None
    assert (str(spec.heat), str(spec.paf), spec.stride) == ("heat[0:19]", "paf[0:38]", 4)


@pytest.mark.parametrize(
    ("before", "mean", "why"),
    [
        ("p = QuantizeLinear(x, pixel) n = DequantizeLinear(p, pixel)", 0.0, "from 0 to 255"),
        (
            "p = QuantizeLinear(x, narrow, dark) n = DequantizeLinear(p, narrow, dark)",
            128.0,
            "from -2.11 to 2.69",
        ),
        ("p = QuantizeLinear(x, unit) n = DequantizeLinear(p, unit)", 0.0, "from 0 to 1"),
        (
            "p = QuantizeLinear(x, two, z) n = DequantizeLinear(p, two, z)",
            127.5,
            "from -1 to 0.992",
        ),
    ],
)
def test_the_range_that_an_input_is_quantised_to(
    before: str, mean: float, why: str, proto: Proto
) -> None:
    spec = detect_pose_spec(network(proto, before))
    assert spec.preprocess.mean == (mean,) * 3
    assert (spec.preprocess.scale[0] == 1) == why.endswith("255")
    assert why in spec.notes["mean"].why


def test_pixels_that_come_quantised(proto: Proto) -> None:
    spec = detect_pose_spec(network(proto, "n = DequantizeLinear(x, narrow, dark)", kind="uint8"))
    assert (spec.preprocess.mean, spec.preprocess.scale) == ((0.0,) * 3, (1.0,) * 3)
    assert spec.preprocess.pad_value == 112.0
    assert spec.notes["mean"].why == "the input is uint8"


def test_an_output_that_joins_the_others(proto: Proto) -> None:
    joined = """i = DequantizeLinear(aq, s, z) j = DequantizeLinear(bq, s, z)
        l = Concat<axis=1>(i, j) lq = QuantizeLinear(l, s, z) all = DequantizeLinear(lq, s, z)"""
    before = "p = QuantizeLinear(x, pixel) n = DequantizeLinear(p, pixel)"
    spec = detect_pose_spec(network(proto, before, after=joined))
    assert spec.paf is not None
    assert {spec.heat.output, spec.paf.output} <= {"heat", "paf", "all"}


def test_operators_on_quantised_tensors(proto: Proto, tmp_path: Path) -> None:
    body = """p = QuantizeLinear(x, pixel)
        c = QLinearConv<strides=[4,4]>(p, pixel, z0, w, s, wz, s, z)
        a = QLinearConv(c, s, z, v, s, wz, s, z) heat = DequantizeLinear(a, s, z)
        b = QLinearConv(c, s, z, u, s, wz, s, z) paf = DequantizeLinear(b, s, z)"""
    used = {name: CONSTANTS[name] for name in ("w", "v", "u", "s", "z", "pixel")}
    zeros = {"z0": np.uint8(0), "wz": np.int8(0)}
    model = proto("float[1,3,64,96] x", OUTPUTS, body, **used, **zeros)
    onnx.save(model, tmp_path / "net.onnx")
    spec = detect_pose_spec(tmp_path / "net.onnx")
    assert (str(spec.heat), spec.stride) == ("heat[0:19]", 4)
    assert "from 0 to 255" in spec.notes["mean"].why
