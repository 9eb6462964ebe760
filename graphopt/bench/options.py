"""Options of the commands `bench` and `profile`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from graphopt.display.options import Option, Panel

ContestMode: TypeAlias = Literal["best", "float32"]


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured beside a network, and how often.

    Competitors (`graphopt.bench.competitors.COMPETITORS`) run `original`; where it is left out, the
    file that `graphopt optimize` made the network from, if that lies beside it, else what the
    bundle was compiled from. Those that run int8 get `quantized` beside it; where that is left out,
    what the bundle was compiled from, if that is quantised and has an original.
    """

    vs: Annotated[
        tuple[str, ...],
        Option(
            "Engines to compare with: onnxruntime,openvino,ncnn,mnn, or tinygrad (OpenCL).",
            Panel.MEASUREMENT,
            "A,B",
            separator=",",
            default_text="onnxruntime",
        ),
    ] = ("onnxruntime",)
    original: Annotated[
        Path | None,
        Option(
            "The network before optimize, for the other engines; the one beside it if left out.",
            Panel.MEASUREMENT,
            "A.onnx",
        ),
    ] = None
    contest: Annotated[
        ContestMode,
        Option(
            "best: every engine in what it is fastest in, int8 too; float32: all in that.",
            Panel.MEASUREMENT,
        ),
    ] = "best"
    quantized: Annotated[
        Path | None,
        Option(
            "A QDQ file of the network, for engines with int8; the bundle's own if left out.",
            Panel.MEASUREMENT,
            "Q.onnx",
        ),
    ] = None
    images: Annotated[
        Path | None,
        Option(
            "Photos: how alike each engine's people are to the original's; --photo if left out.",
            Panel.MEASUREMENT,
            "DIR",
        ),
    ] = None
    per_layer: Annotated[
        bool, Option("Measure graphopt's layers too, and the machine's peak.", Panel.MEASUREMENT)
    ] = False
    photo: Annotated[
        Path | None,
        Option(
            "Measure its way too: pre-processing, network, decoding, drawing.", Panel.MEASUREMENT
        ),
    ] = None
    threads: Annotated[
        int | None,
        Option("Threads of every engine; every core if left out.", Panel.SIZE, min=1),
    ] = None
    num_runs: Annotated[
        int, Option("Rounds; an engine runs once in each.", Panel.MEASUREMENT, min=1)
    ] = 20
    warmup_runs: Annotated[int, Option("Rounds before, not counted.", Panel.MEASUREMENT, min=0)] = 3
    input_shape: Annotated[
        tuple[str, ...],
        Option(
            "Input size for an ONNX file: NAME:1,3,368,656, or without NAME if it has one.",
            Panel.SIZE,
            "[NAME:]SHAPE",
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """What is measured for a latency profile."""

    target: Annotated[str, Option("Whose kernels: cpu or opencl, as in compile.", Panel.TARGET)] = (
        "cpu"
    )
    threads: Annotated[
        int | None, Option("CPU threads; every core if left out.", Panel.SIZE, min=1)
    ] = None
