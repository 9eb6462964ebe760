"""Candidates made: networks rewritten and bundles compiled, each once, in the search's folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.ir.block_structure import MEASURED
from graphopt.ir.files import replacing
from graphopt.ir.input_shapes import format_input_shapes
from graphopt.optimizer.optimize import optimize
from graphopt.optimizer.options import OptimizeOptions, SensitivityOptions
from graphopt.optimizer.sensitivity import measure_file
from graphopt.pose.estimate import Estimator
from graphopt.pose.open import open_engine
from graphopt.runtime.engine import OnnxRuntimeEngine
from graphopt.search.candidates import Candidate
from graphopt.search.notebook import FAILED, Notebook
from graphopt.search.options import LOCAL, SearchOptions
from graphopt.search.subject import Subject

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Workshop:
    """Where candidates are made.

    Args:
        subject: what they are made of.
        options: the search's.
        folder: networks, bundles and sensitivities; what was begun there goes on.
        notebook: what became of them.
    """

    subject: Subject
    options: SearchOptions
    folder: Path
    notebook: Notebook

    def network(self, candidate: Candidate, tell: Tell) -> Path | str:
        """The file of a candidate's network, of any height; or why there is none."""
        path = self._file(candidate)

        def make() -> dict[str, str]:
            optimize(self.subject.path, path, self._rewriting(candidate, tell), progress=tell)
            return {}

        made = self.notebook.once(f"network: {candidate.pipeline}", make)
        return str(made[FAILED]) if FAILED in made else path

    def bundle(self, candidate: Candidate, tell: Tell) -> Path | str:
        """A candidate compiled for this machine; or why it is not."""
        network = self.network(candidate, tell)
        if isinstance(network, str):
            return network
        folder = self.folder / f"{network.stem}-{candidate.height}-{candidate.precision}.graphopt"

        def make() -> dict[str, str]:
            compile_model(network, folder, self._compiling(candidate), progress=tell)
            return {}

        made = self.notebook.once(f"bundle: {candidate}", make)
        return str(made[FAILED]) if FAILED in made else folder

    def sizes(self, candidate: Candidate) -> dict[str, list[int]]:
        """The size of a candidate's input, by its name; none where the network says it itself."""
        if not self.subject.dynamic:
            return {}
        shape = self.subject.shape(candidate.height)
        return {self.subject.input: [extent or 1 for extent in shape]}

    def estimator(self, candidate: Candidate, network: Path) -> Estimator:
        """A candidate run by onnxruntime, in photos of its height."""
        choices = self.options.pose.choices()
        engine, spec = open_engine(network, threads=self.options.threads or 0, **choices)
        assert isinstance(engine, OnnxRuntimeEngine)
        engine.inputs = {self.subject.input: self.subject.shape(candidate.height)}
        return Estimator(engine, spec)

    def command(self, candidate: Candidate, output: str = "OUT.onnx") -> str:
        """The `optimize` command that makes a candidate's network again."""
        rewriting = candidate.rewriting
        made = self._options(candidate)
        words = ["graphopt", "optimize", str(self.subject.path), "-o", output, "--preset", "exact"]
        words += ["--passes", rewriting.passes] if rewriting.passes else []
        if rewriting.compression:
            words += ["--compression", str(rewriting.compression)]
            words += ["--sensitivity", str(self._sensitivity(candidate))]
            words += ["--device", str(made.device)] if made.device else []
        words += ["--int8"] if candidate.int8 else []
        if made.calib is not None:
            words += ["--calib", str(made.calib), "--calib-photos", str(made.calib_photos)]
        words += ["--input-shape", "dynamic"] if self.subject.dynamic else []
        return shlex.join([*words, *_flags(self.options)])

    def compile_command(self, candidate: Candidate, network: str, bundle: str) -> str:
        """The `compile` command that makes its bundle of that."""
        made = self._compiling(candidate)
        words = ["graphopt", "compile", network, "-o", bundle]
        words += ["--input-shape", *made.input_shape] if self.subject.dynamic else []
        words += ["--precision", made.precision] if made.precision else []
        return shlex.join([*words, *_flags(self.options)])

    def _options(self, candidate: Candidate) -> OptimizeOptions:
        made = candidate.rewriting.options(
            self.options, int8=candidate.int8, dynamic=self.subject.dynamic
        )
        local = self.options.device == LOCAL
        return made if local or not made.compression else replace(made, device=self.options.device)

    def _rewriting(self, candidate: Candidate, tell: Tell) -> OptimizeOptions:
        """The options that make a candidate's network; sensitivity is measured once for all."""
        made = self._options(candidate)
        if not made.compression:
            return made
        file = self._sensitivity(candidate)
        if not file.exists():
            asked = SensitivityOptions(
                calib=self.options.calib,
                block=MEASURED["int8" if candidate.int8 else "float32"],
                pose=self.options.pose,
            )
            work = file.with_suffix(".work")
            found = measure_file(self.subject.path, asked, work=work, progress=tell)
            with replacing(file) as fresh:
                fresh.write_text(found.to_json(), encoding="utf-8")
        return replace(made, sensitivity=file)

    def _sensitivity(self, candidate: Candidate) -> Path:
        return self.folder / f"sensitivity{'-int8' if candidate.int8 else ''}.json"

    def _compiling(self, candidate: Candidate) -> CompileOptions:
        return CompileOptions(
            input_shape=format_input_shapes(self.sizes(candidate)),
            precision=None if candidate.int8 else candidate.precision,
            pose=self.options.pose,
        )

    def _file(self, candidate: Candidate) -> Path:
        name = re.sub(r"[^a-z0-9.]+", "-", candidate.pipeline).strip("-")
        return self.folder / f"{name}.onnx"


def _flags(options: SearchOptions) -> list[str]:
    """What the user said about the network, as on the command line."""
    said = ((name, value) for name, value in vars(options.pose).items() if value is not None)
    return [word for name, value in said for word in (f"--{name.replace('_', '-')}", str(value))]
