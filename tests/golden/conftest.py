"""Golden text: what passes and the compiler make of small networks, as files to read and to diff.

`PASS/CASE.onnxtxt` is a network in ONNX's text format, below comments that say what it shows:

    # pipeline: fold-batchnorm, canonicalize
    # device: adreno-640      what passes are told of the device (optional)
    # images: 5               so many synthetic images for passes that calibrate (optional)
    # fitted                  values that were fitted are not compared (optional)

`plans/CASE.txt` says `# target: opencl` in place of the pipeline, and `# kernels` where OpenCL C is
compared as well, in `opencl/CASE.cl`. All from the first line `# --- …` on is written by `pytest
tests/golden --update-golden`. Large weights are written `float[4,3,3,3] w = normal(1)`, numbers of
the normal distribution by a seed, and are printed like that as long as they are the same; else as a
summary: the root of the mean square, a projection, which tells permutations apart, and how many are
zero.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from small_networks import HEAT_SPEC

from graphopt.analysis.latency.device import load_device
from graphopt.compiler.prepare import prepare_network
from graphopt.fitting.calibration import Calibration
from graphopt.ir.onnx_io import load_model, to_proto
from graphopt.optimizer.outcome import PassStep
from graphopt.optimizer.pass_contract import Context
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.syntax import parse_pipeline
from graphopt.runtime.plan import Launch, Plan

Array = NDArray[Any]

HERE = Path(__file__).resolve().parent
WRITTEN_OUT = 16
"""Most numbers of a weight that are printed one by one."""
ROUNDING = 2e-3
"""Numbers with a point count as the same up to this part: machines round differently."""

_GENERATED = re.compile(r"^(?:#|//) --- ", re.MULTILINE)
_SETTING = re.compile(r"^# (\w+)(?:: (.+))?$", re.MULTILINE)
_NORMAL = re.compile(r"float\[([\d,]+)\] (\w+) = (normal\((\d+)\))")
_REPEATED_NAME = re.compile(r"\[([^]]+)\] (?=\1 = )")
_PLAIN_KIND = re.compile(r": ints? = ")
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


# --- comparing ----------------------------------------------------------------------------------


def hold(path: Path, text: str, *, update: bool) -> bool:
    """Hold a file to a text, or write it; whether it was written.

    Fails with what differs.
    """
    expected = path.read_text(encoding="utf-8") if path.exists() else ""
    if alike(expected, text):
        return False
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return True
    old, new = expected.splitlines(), text.splitlines()
    diff = "\n".join(difflib.unified_diff(old, new, f"{path}", "now", lineterm=""))
    pytest.fail(f"{diff}\nIf that is right: pytest tests/golden --update-golden", pytrace=False)


def alike(expected: str, found: str) -> bool:
    """Whether texts are equal, up to the rounding of numbers with a point."""
    pairs = zip_longest(_NUMBER.split(expected), _NUMBER.split(found))
    return all(a == b or _close(a, b) for a, b in pairs)


def _close(a: str | None, b: str | None) -> bool:
    if not (a and b and _NUMBER.fullmatch(a) and _NUMBER.fullmatch(b) and "." in a + b):
        return False
    return math.isclose(float(a), float(b), rel_tol=ROUNDING)


@pytest.fixture
def compare() -> Callable[..., bool]:
    """See `hold`."""
    return hold


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Hold a file to a text; with --update-golden, write it, to be named at the end."""

    def check(path: Path, text: str) -> None:
        if hold(path, text, update=request.config.getoption("--update-golden")):
            request.node.user_properties.append(("golden", str(path.relative_to(HERE))))

    return check


# --- networks as text ---------------------------------------------------------------------------


def _read(head: str) -> tuple[onnx.ModelProto, dict[bytes, str]]:
    """A network, and by the bytes of its weights what is written for them."""
    model = onnx.parser.parse_model(_NORMAL.sub(r"float[\1] \2", head))
    known = {t.raw_data: _all_of(t) for t in map(_raw, model.graph.initializer)}
    for shape, name, shorthand, seed in _NORMAL.findall(head):
        size = [int(extent) for extent in shape.split(",")]
        values = np.random.default_rng(int(seed)).standard_normal(size).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        model.graph.value_info.remove(next(v for v in model.graph.value_info if v.name == name))
        known[values.tobytes()] = shorthand
    return model, known


def _written(model: onnx.ModelProto, known: Mapping[bytes, str], *, fitted: bool) -> str:
    """A network as ONNX's printer writes it, with a weight on each line; without functions.

    Nodes' names are left out where they are those of the output, as are the types of attributes
    that are whole numbers.
    """
    bare = onnx.GraphProto()
    bare.CopyFrom(model.graph)
    del bare.initializer[:], bare.value_info[:]
    text = _PLAIN_KIND.sub(" = ", _REPEATED_NAME.sub("", onnx.printer.to_text(bare)))
    signature, body = text.split("{", 1)
    weights = [f"   {_weight(tensor, known, fitted)}" for tensor in model.graph.initializer]
    listed = ["<", ",\n".join(weights), ">"] if weights else []
    return "\n".join([signature.rstrip(), *listed, "{" + body.rstrip()])


def _weight(tensor: onnx.TensorProto, known: Mapping[bytes, str], fitted: bool) -> str:
    kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
    size = f"[{','.join(map(str, tensor.dims))}]" if tensor.dims else ""
    name = tensor.name if tensor.name.isidentifier() else f'"{tensor.name}"'
    return f"{kind}{size} {name} = {known.get(_raw(tensor).raw_data) or _values(tensor, fitted)}"


def _raw(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name)


def _values(tensor: onnx.TensorProto, fitted: bool) -> str:
    values = onnx.numpy_helper.to_array(tensor)
    if fitted and values.dtype.kind == "f" and values.ndim:
        return "fitted"
    if values.size <= WRITTEN_OUT:
        return _all_of(tensor)
    numbers = values.astype(np.float64).ravel()
    direction = np.random.default_rng(0).standard_normal(numbers.size)
    probe = numbers @ direction / np.sqrt(numbers.size)
    zeros = numbers.size - np.count_nonzero(numbers)
    found = f"rms={np.sqrt(np.mean(numbers**2)):.4g}, probe={probe:.4g}"
    return f"summary({found}, zeros={zeros})" if zeros else f"summary({found})"


def _all_of(tensor: onnx.TensorProto) -> str:
    values = onnx.numpy_helper.to_array(tensor).ravel().tolist()
    return f"{{{', '.join(f'{value:.6g}' for value in values)}}}"


# --- passes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What stands in a file above the first generated line."""

    head: str

    @classmethod
    def of(cls, path: Path) -> Case:
        return cls(_GENERATED.split(path.read_text(encoding="utf-8"))[0].rstrip())

    @property
    def settings(self) -> dict[str, str]:
        """The comments `# name: value`, and `# name` alone."""
        return dict(_SETTING.findall(self.head))

    def with_sections(self, sections: Iterable[tuple[str, str]]) -> str:
        """The whole file's text; a section is a title and what stands below it."""
        texts = [f"# --- {title}\n{text}".rstrip() for title, text in sections]
        return "\n\n".join([self.head, *texts]) + "\n"


@pytest.fixture
def optimised(tmp_path: Path) -> Callable[[Path], str]:
    """The text of a pass's case, as it comes out now."""

    def make(path: Path) -> str:
        case = Case.of(path)
        settings = case.settings
        model, known = _read(case.head)
        onnx.save(model, tmp_path / "network.onnx")
        graph = load_model(tmp_path / "network.onnx")
        context = Context(
            device=load_device(settings["device"]) if "device" in settings else None,
            calibration=_images(graph, int(settings["images"])) if "images" in settings else None,
        )
        passes = parse_pipeline(settings["pipeline"])
        before = _written(to_proto(graph), known, fitted=False)
        result = run_pipeline(graph, passes, context=context, verify="off", on_fail="revert")
        optimised = to_proto(result.graph)
        onnx.checker.check_model(optimised, full_check=True)
        after = _written(optimised, known, fitted="fitted" in settings)
        network = ("unchanged", "") if after == before else ("becomes", after)
        return case.with_sections([network, *chain.from_iterable(map(_said, result.steps))])

    return make


def _said(step: PassStep) -> Iterator[tuple[str, str]]:
    """What a pass did, left alone and refused, as sections."""
    if step.changes:
        yield f"changes by {step.name}", _listed((c.node, c.summary) for c in step.changes)
    if step.skips:
        yield f"skips of {step.name}", _listed((s.node, s.reason) for s in step.skips)
    if step.failure:
        yield f"{step.name} refuses", f"# {step.failure}"


def _listed(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"# {node}: {text}" for node, text in pairs)


def _images(graph: Any, count: int) -> Calibration:
    """Synthetic images; the first output's channels are taken for a skeleton's heat maps."""
    heat = replace(HEAT_SPEC.heat, output=graph.outputs[0].name)
    spec = replace(HEAT_SPEC, heat=heat)
    return Calibration.synthetic(graph, spec, count=count)


# --- the compiler -------------------------------------------------------------------------------


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[Path], tuple[str, str]]:
    """The text of a plan's case, and its kernels where it names them, as they come out now."""
    from graphopt.codegen.jobs.compile_network import compile_network
    from graphopt.codegen.targets import load_target

    def make(path: Path) -> tuple[str, str]:
        case = Case.of(path)
        model, _ = _read(case.head)
        onnx.save(model, tmp_path / "network.onnx")
        graph = prepare_network(tmp_path / "network.onnx", None, {}, lambda _: None).graph
        model = to_proto(graph)
        for node in model.graph.node:
            node.name = node.output[0]
        made = compile_network(model, load_target(case.settings["target"]))
        plan = made.plan
        memory = [f"weights: {len(made.weights)} bytes"]
        memory += [f"arena {number}: {size} bytes" for number, size in enumerate(plan.arenas)]
        sections = {
            "memory": memory,
            "tensors": [f"{n:>3}  {_placed(plan, n)}" for n in range(len(plan.tensors))],
            "launches": [_launched(launch) for launch in plan.launches],
        }
        text = case.with_sections((title, "\n".join(lines)) for title, lines in sections.items())
        kernels = f"// Kernels of plans/{path.name}.\n{made.code.decode()}"
        return text, kernels if "kernels" in case.settings else ""

    return make


def _placed(plan: Plan, number: int) -> str:
    """A tensor's type, size and place, and what the network calls it."""
    tensor = plan.tensors[number]
    names = [f"input {n}" for n, t in plan.inputs.items() if t == number]
    names += [f"output {n}" for n, t in plan.outputs.items() if t == number]
    place = {None: "of the caller", -1: f"weights + {tensor.offset}"}.get(
        tensor.arena, f"arena {tensor.arena} + {tensor.offset}"
    )
    size = f"{tensor.dtype}[{','.join(map(str, tensor.shape))}]"
    return "  ".join([size, place, *names])


def _launched(launch: Launch) -> str:
    """A call as a line; what is empty or 0 is left out."""
    rest = {
        one.name: value
        for one in fields(launch)[2:]
        if (value := getattr(launch, one.name)) != one.default
    }
    told = [f"{name}={_plain(value)}" for name, value in rest.items() if value]
    return "  ".join([f"{launch.kernel}({', '.join(map(str, launch.arguments))})", *told])


def _plain(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
