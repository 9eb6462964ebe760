"""Kernels of bytes in OpenCL C against their meaning, bit by bit, by every function for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from int8_cases import (
    AS_FLOATS,
    REQUANTISED,
    RESIDUAL,
    check_extremes,
    check_meaning,
    quantised,
)
from kernel_cases import DENSE, DEPTHWISE, GROUPED, POINTWISE, TRANSPOSED, extensions

from graphopt.codegen.kernels.conv.template import ConvSpec
from graphopt.codegen.kernels.epilogue import Epilogue
from graphopt.codegen.kernels.low_precision.int8_choice import candidates
from graphopt.codegen.linking import machine_code
from graphopt.codegen.linking.opencl_dot import DOT_PRODUCTS
from graphopt.codegen.targets import load_target
from graphopt.runtime import opencl

pytestmark = pytest.mark.opencl

CASES = {
    "3x3": (DENSE["3x3"], 7, RESIDUAL),
    "bias, floats": (DENSE["channels that fill no block"], 5, AS_FLOATS),
    "runs of channels": (DENSE["runs of channels"], 0, REQUANTISED),
    "uneven pads": (DENSE["uneven pads"], 9, REQUANTISED),
    "dilation past the picture": (DENSE["dilation past the picture"], 0, REQUANTISED),
    "5x1, uneven strides": (DENSE["5x1, uneven strides"], 7, REQUANTISED),
    "a photo": (DENSE["planar"], 114, REQUANTISED),
    "1x1": (POINTWISE["1x1"], 0, RESIDUAL),
    "1x1, stride 2": (DENSE["1x1, stride 2"], 3, REQUANTISED),
    "1x1, runs of channels": (POINTWISE["1x1, runs of channels"], 7, REQUANTISED),
    "depthwise 3x3": (DEPTHWISE["depthwise 3x3"], 7, RESIDUAL),
    "depthwise, uneven pads": (DEPTHWISE["depthwise, uneven pads"], 0, AS_FLOATS),
    "depthwise dilation 2": (DEPTHWISE["depthwise dilation 2"], 255, REQUANTISED),
    **{
        name: (TRANSPOSED[f"transposed{name}"], zero, REQUANTISED)
        for name, zero in {
            " 4x4, stride 2": 7,
            ", runs of channels": 0,
            ", uneven everything": 5,
            ", large pads": 3,
            " depthwise": 7,
        }.items()
    },
    **{name: (spec, number, REQUANTISED) for number, (name, spec) in enumerate(GROUPED.items())},
    "depthwise, runs of channels": (DEPTHWISE["depthwise, runs of channels"], 5, REQUANTISED),
}


def check(conv: ConvSpec, zero: int, epilogue: Epilogue, folder: Path) -> None:
    target = load_target("opencl")
    spec = quantised(conv, zero, epilogue, target.lanes, target.byte_lanes)
    check_meaning(candidates(spec, target)[0], spec, target, folder)


@pytest.mark.parametrize("case", CASES)
def test_equals_its_meaning(case: str, tmp_path: Path) -> None:
    check(*CASES[case], tmp_path)


SIGNED_BY_UNSIGNED = """
int {name}(uint a, uint b{sum}) {{
  int4 products = convert_int4(as_char4(a)) * convert_int4(as_uchar4(b));
  return products.s0 + products.s1 + products.s2 + products.s3{add};
}}
"""
FUNCTIONS = {
    "Arm's": """
#define cl_arm_integer_dot_product_accumulate_int8 1
int arm_dot_acc(char4 a, char4 b, int c) {
  int4 products = convert_int4(a) * convert_int4(b);
  return products.s0 + products.s1 + products.s2 + products.s3 + c;
}
""",
    "Qualcomm's": "#undef cl_khr_integer_dot_product\n#define cl_qcom_dot_product8 1\n"
    + SIGNED_BY_UNSIGNED.format(name="qcom_dot8_acc", sum=", int c", add=" + c"),
    "one that is listed, and missing": """
#undef cl_khr_integer_dot_product
#define cl_qcom_dot_product8 1
#define qcom_dot8_acc missing
""",
    "none": "#define PLAIN_DOT\n",
}
"""Text that has a compiler define a function, or lack it."""


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_for_products(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_code, "DOT_PRODUCTS", FUNCTIONS[function] + DOT_PRODUCTS)
    monkeypatch.setattr(opencl, "build_options", lambda *_: [[], ["-DPLAIN_DOT"]])
    check(*CASES["bias, floats"], tmp_path)


def test_khronos_function_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "cl_khr_integer_dot_product" not in extensions():
        pytest.skip("this device has no function for products of bytes")
    only = DOT_PRODUCTS.replace("#ifndef DOT\n", "#ifndef DOT\n#error\n")
    assert only != DOT_PRODUCTS
    monkeypatch.setattr(machine_code, "DOT_PRODUCTS", only)
    check(*CASES["bias, floats"], tmp_path)


@pytest.mark.parametrize(
    ("source", "extensions", "options"),
    [
        ("", "cl_khr_integer_dot_product", [[]]),
        (DOT_PRODUCTS, "cl_khr_fp16", [["-DPLAIN_DOT"]]),
        (DOT_PRODUCTS, "cl_khr_fp16 cl_qcom_dot_product8", [[], ["-DPLAIN_DOT"]]),
        (
            DOT_PRODUCTS,
            "cl_khr_integer_dot_product cl_khr_fp16",
            [["-cl-std=CL3.0"], [], ["-DPLAIN_DOT"]],
        ),
    ],
)
def test_only_functions_of_the_device(
    source: str, extensions: str, options: list[list[str]]
) -> None:
    assert opencl.build_options(source, extensions) == options


@pytest.mark.parametrize("weight", [127, -128])
def test_products_do_not_saturate(weight: int, tmp_path: Path) -> None:
    check_extremes(255, weight, load_target("opencl"), tmp_path)
