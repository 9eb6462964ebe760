"""Table 2's networks through everything: `graphopt reproduce table2 --full DIR`.

Each is built, optimised by the preset `mobile`, and what comes out compiled for the CPU and, if it
is not too large, for OpenCL; each bundle is compared with onnxruntime. A network's record is
written as soon as it is done, and what is recorded is not done again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.display.numbers import human
from graphopt.errors import GraphoptError, InputError
from graphopt.ir.files import replacing
from graphopt.ir.onnx_io import save_model
from graphopt.ir.records import Record
from graphopt.optimizer.optimize import optimize
from graphopt.optimizer.options import OptimizeOptions
from graphopt.paper.published import TABLE_2
from graphopt.paper.reproduce import Reproduction
from graphopt.zoo.catalogue import build

LARGEST = 20e9
"""Multiply-adds beyond which a network is not compiled for OpenCL."""
RECORD = "table2.json"


@dataclass(frozen=True)
class NetworkRecord(Record):
    """What became of a network."""

    macs: tuple[int, int]
    """Before and after."""
    changes: Mapping[str, int]
    """What each pass changed, those that changed something."""
    remarks: tuple[str, ...]
    bundles: Mapping[str, float | str]
    """For each target the difference to onnxruntime, as a part of the outputs' range, or why there
    is none."""


@dataclass(frozen=True)
class Records(Record):
    """All that is done, by network and device."""

    done: dict[str, NetworkRecord] = field(default_factory=dict)

    @classmethod
    def go_on(cls, path: Path) -> Records:
        """What a file holds, or nothing yet."""
        if not path.exists():
            return cls()
        try:
            return cls.from_json(path.read_bytes())
        except ValidationError as error:
            raise InputError(
                f"{path} holds no results of this command", hint="choose another folder"
            ) from error


def through(folder: Path, device: str, tell: Callable[[str], None]) -> Reproduction:
    """Send every network of table 2 through `optimize` and `compile`.

    Args:
        folder: keeps the networks and the records.
        device: what they are optimised for.
        tell: told what is being done.

    Raises:
        GraphoptError: a network cannot be optimised; those before it are recorded.
    """
    records = Records.go_on(folder / RECORD)
    small_first = sorted(TABLE_2, key=lambda model: model.gflops)
    names = dict.fromkeys(model.network for model in small_first)
    for number, name in enumerate(names, start=1):
        key = f"{name}, {device}"
        if key not in records.done:

            def of(text: str, place: str = f"{name} ({number} of {len(names)})") -> None:
                tell(f"{place}: {text}")

            try:
                records.done[key] = _record(folder, name, device, of)
            except KeyboardInterrupt as interrupt:
                said = str(interrupt) or f"the same command goes on from {folder}"
                raise KeyboardInterrupt(said) from None
            with replacing(folder / RECORD) as fresh:
                fresh.write_text(records.to_json(indent=1) + "\n", encoding="utf-8")
    rows = []
    for name in names:
        record = records.done[f"{name}, {device}"]
        hits = ", ".join(f"{pass_name} {count}" for pass_name, count in record.changes.items())
        ends = (_cell(record.bundles.get(target)) for target in ("cpu", "opencl"))
        rows.append((name, hits, *map(human, record.macs), *ends))
    remarks = {remark for record in records.done.values() for remark in record.remarks}
    return Reproduction(
        title=f"Table 2 through optimize --preset mobile --device {device} and compile",
        columns=("network", "changed", "MACs before", "after", "cpu", "opencl"),
        rows=tuple(rows),
        notes=(
            "cpu, opencl: difference to onnxruntime as a part of the outputs' range.",
            "Weights are random: kernels that a trained network's stacks would fit are left.",
            *sorted(remarks),
        ),
    )


def _record(folder: Path, name: str, device: str, tell: Callable[[str], None]) -> NetworkRecord:
    network, output = folder / f"{name}.onnx", folder / f"{name}.{device}.onnx"
    if not network.exists():
        tell("building")
        save_model(build(name), network)
    options = OptimizeOptions(preset="mobile", device=device)
    report = optimize(network, output, options, progress=tell)
    bundles: dict[str, float | str] = {}
    for target in ("cpu", "opencl"):
        if target == "opencl" and report.before.macs > LARGEST:
            continue
        tell(f"compiling for {target}")
        bundle = folder / f"{name}.{device}.{target}"
        estimated = CompileOptions(target=target, tuning="off", precision="float32")
        try:
            bundles[target] = compile_model(output, bundle, estimated).difference
        except GraphoptError as error:
            bundles[target] = str(error)
    changes: Counter[str] = Counter()
    for entry in report.passes:
        changes[entry.name] += len(entry.changes)
    return NetworkRecord(
        macs=(report.before.macs, report.after.macs),
        changes=+changes,
        remarks=report.remarks,
        bundles=bundles,
    )


def _cell(found: float | str | None) -> str:
    if found is None:
        return ""
    return found if isinstance(found, str) else f"{found:.0e}"
