"""The examples of manual pages do what the pages say, and documented pipelines can be read.

An example is a pipeline, and below it a network, an arrow, and the operators that it becomes; after
a colon what is said of a change. Inputs and weights are those that are named here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from small_networks import HEAT_SPEC

from graphopt.fitting.calibration import Calibration
from graphopt.optimizer.pass_contract import Context, Numerics
from graphopt.optimizer.pipeline import run_pipeline
from graphopt.optimizer.registry import find_passes
from graphopt.optimizer.syntax import parse_pipeline

ROOT = Path(__file__).resolve().parents[2]

SHAPES = {
    "first": (32, 3, 3, 3),
    "inner": (32, 32, 3, 3),
    "point": (32, 3, 1, 1),
    "last": (19, 32, 1, 1),
    "refine": (19, 51, 1, 1),
    "maps": (19, 3, 1, 1),
    "scale": (32,),
    "shift": (32,),
    "mean": (32,),
}


def smooth(extent: int) -> np.ndarray:
    """One channel's kernel as trained ones are: a bump with some noise."""
    place = np.linspace(-1.5, 1.5, extent)
    bump = np.exp(-(place[:, None] ** 2) - place**2)
    noise = np.random.default_rng(5).standard_normal((3, 1, extent, extent))
    return (bump + 0.05 * noise).astype(np.float32)


@dataclass(frozen=True)
class Example:
    """What stands under `Examples:` in a manual page."""

    page: str
    pipeline: str
    body: str
    becomes: str
    said: str

    def __str__(self) -> str:
        return f"{self.page}: {self.pipeline}"


_SECTION = re.compile(r"^Examples:\n((?:    .*\n)+)", re.MULTILINE)
_EXAMPLE = re.compile(r"^    (\S.*)\n((?:        .*\n)+)", re.MULTILINE)


def _examples() -> Iterator[Example]:
    for name, pass_type in find_passes().items():
        page = inspect.cleandoc(pass_type.__doc__ or "")
        section = _SECTION.search(f"{page}\n")
        for pipeline, rest in _EXAMPLE.findall(section[1] if section else ""):
            body, result = " ".join(rest.split()).split(" -> ")
            becomes, _, said = result.partition(": ")
            yield Example(name, pipeline, body, becomes, said)


EXAMPLES = list(_examples())


Show = Callable[[str], gs.Graph]


@pytest.fixture
def shown(network: Callable[..., gs.Graph], normal: Callable[..., np.ndarray]) -> Show:
    """The network of an example."""

    def make(body: str) -> gs.Graph:
        weights = {"large": smooth(7), "small": smooth(3), "variance": np.ones(32, np.float32)}
        for name, shape in SHAPES.items():
            weights[name] = normal(*shape) / np.float32(np.sqrt(np.prod(shape[1:])))
        used = {name: w for name, w in weights.items() if re.search(rf"\b{name}\b", body)}
        channels = "19" if used.keys() & {"last", "maps"} else "B"
        return network("float[1,3,24,32] x", f"float[A,{channels},C,D] y", body, **used)

    return make


def _images(graph: gs.Graph) -> Calibration:
    preprocess = replace(HEAT_SPEC.preprocess, multiple=8)
    spec = replace(HEAT_SPEC, preprocess=preprocess)
    return Calibration.synthetic(graph, spec, count=6)


def test_every_page_has_an_example_of_its_pass() -> None:
    for name, pass_type in find_passes().items():
        texts = [example.pipeline for example in EXAMPLES if example.page == name]
        assert any(isinstance(p, pass_type) for text in texts for p in parse_pipeline(text)), name


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_does_what_its_page_says(
    example: Example, shown: Callable[..., gs.Graph]
) -> None:
    if "distill" in example.pipeline:
        pytest.importorskip("torch", reason="PyTorch is not installed (extra [distill])")
    graph, passes = shown(example.body), parse_pipeline(example.pipeline)
    wants_images = any(chosen.needs_images for chosen in passes)
    context = Context(calibration=_images(graph) if wants_images else None)
    result = run_pipeline(graph, passes, context=context, on_fail="warn")
    last = result.steps[-1]
    assert [node.op for node in result.graph.nodes] == example.becomes.split()
    assert last.changes
    assert not last.reverted
    assert any(example.said in change.summary for change in last.changes)
    assert last.failure is None or last.numerics is not Numerics.EXACT


def _documented() -> Iterator[tuple[str, str, str]]:
    """Each `--passes` of documents and examples: where, the pipeline, what else the command has."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.py")]
    for path in sorted([*pages, ROOT / "graphopt" / "commands" / "help.py"]):
        text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
        for line in text.splitlines():
            for found in re.finditer(r"--passes (?:'([^']+)'|\"([^\"]+)\"|([\w-]+))", line):
                yield path.name, next(filter(None, found.groups())), line


DOCUMENTED = list(_documented())


@pytest.mark.parametrize(("page", "pipeline", "line"), DOCUMENTED)
def test_documented_pipelines_can_be_read(page: str, pipeline: str, line: str) -> None:
    files = [ROOT / file for file in re.findall(r"--load (\S+\.py)", line)]
    assert parse_pipeline(pipeline, find_passes(files))


def test_documents_have_pipelines() -> None:
    assert {"README.md", "custom_pass.py", "deepen.py"} <= {page for page, _, _ in DOCUMENTED}
