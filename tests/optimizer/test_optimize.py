"""`graphopt optimize`, `passes` and `inspect`, as people and scripts call them."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import Graphopt
from known import known
from small_networks import MakeProto, Normal

from graphopt import __version__
from graphopt.analysis.inspection import inspect_models
from graphopt.display.numbers import human
from graphopt.errors import InputError
from graphopt.ir.onnx_io import load_model
from graphopt.optimizer.optimize import optimize
from graphopt.optimizer.options import OptimizeOptions
from graphopt.optimizer.syntax import PRESETS, format_pipeline

MAIN = "from graphopt.cli import main; main()"


@pytest.fixture
def model(proto: MakeProto, normal: Normal, tmp_path: Path) -> Path:
    path = tmp_path / "pose.onnx"
    stats = {"g": normal(4), "b": normal(4), "m": normal(4), "v": np.abs(normal(4)) + 1}
    body = """c = Conv<pads=[1,1,1,1]>(x, w) n = BatchNormalization(c, g, b, m, v)
              i = Identity(n) s = Sigmoid(i) a = Mul(i, s)
              q = GlobalAveragePool(a) h = Sigmoid(q) y = Mul(a, h)"""
    onnx.save(
        proto("float[1,3,H,W] x", "float[1,4,H,W] y", body, w=normal(4, 3, 3, 3), **stats), path
    )
    return path


def test_report_and_metadata(graphopt: Graphopt, model: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out" / "small.onnx", tmp_path / "report.json"
    pipeline = ["--preset", "exact", "--passes", "replace-swish"]
    code, text, _ = graphopt("optimize", model, "-o", out, *pipeline, "--report", report)
    assert code == 0
    for word in ("fold-batchnorm", "replace-swish", "no Swish", "MACs", "x 1x3x96x128"):
        assert word in text
    told = json.loads(report.read_text())
    keys = ["input", "output", "pipeline", "before", "after", "device", "ms_before", "ms_after"]
    assert list(told) == [*keys, "passes", "remarks"]
    assert told["pipeline"] == PRESETS["exact"] + ", replace-swish"
    assert (
        list(told["before"])
        == list(told["after"])
        == [
            "params",
            "macs",
            "kept_params",
            "kept_macs",
            "bytes",
            "nodes",
        ]
    )
    keys = ["name", "changes", "skips", "max_abs_diff", "numerics", "seconds", "ms", "poses"]
    assert all(list(entry) == keys for entry in told["passes"])
    swish = told["passes"][-1]
    assert (swish["name"], swish["changes"], swish["numerics"]) == (
        "replace-swish",
        1,
        "approximate",
    )
    assert swish["skips"] == [{"node": "y", "reason": "the Sigmoid gates another tensor: no Swish"}]
    assert told["passes"][1]["max_abs_diff"] < 1e-5 < swish["max_abs_diff"]
    # 4 * 3 weights of 3x3 at 96x128; the parameters lose the BatchNormalization, gain a bias.
    assert told["before"]["macs"] == 4 * 3 * 9 * 96 * 128
    assert (told["before"]["params"], told["before"]["nodes"]) == (108 + 16, 8)
    made = onnx.load(out)
    assert {p.key: p.value for p in made.metadata_props} == {
        "graphopt.pipeline": PRESETS["exact"] + ", replace-swish",
        "graphopt.version": __version__,
        "graphopt.input_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
    }
    assert [n.op_type for n in made.graph.node].count("Sigmoid") == 1


def test_default_output_and_options(graphopt: Graphopt, model: Path) -> None:
    code, _, _ = graphopt(
        "optimize",
        model,
        "--skip-passes",
        "fold-batchnorm",
        "--input-shape",
        "1,3,16,16",
        "--verify",
        "off",
    )
    assert code == 0
    made = load_model(model.with_name("pose.opt.onnx"))
    assert made.inputs[0].shape == [1, 3, 16, 16]
    assert "BatchNormalization" in {node.op for node in made.nodes}
    assert "Identity" not in {node.op for node in made.nodes}


def test_passes_follow_the_preset(model: Path) -> None:
    report = optimize(
        model, options=OptimizeOptions(preset="exact", passes="replace-swish{gate=hardtanh}")
    )
    assert report.pipeline == PRESETS["exact"] + ", replace-swish{gate=hardtanh}"
    assert (
        optimize(model, options=OptimizeOptions(passes="canonicalize")).pipeline == "canonicalize"
    )


def test_the_default_is_what_pays_on_a_phone(model: Path) -> None:
    """Here nothing tells how the network sees images: what must be fitted on some is left out."""
    report = optimize(model)
    assert report.device == "adreno-640"
    assert report.pipeline == (
        "canonicalize, fold-batchnorm, undilate-conv{way=fastest}, stack-large-conv, "
        "fold-batchnorm, canonicalize"
    )
    assert "left out replace-swish, reconstruct, which need images" in report.remarks[0]
    assert known(report.ms_after) <= known(report.ms_before)
    assert all(known(entry.ms) <= known(report.ms_before) for entry in report.passes)
    other = optimize(model, options=OptimizeOptions(device="mali-g76-mp12"))
    assert other.ms_before != report.ms_before
    with pytest.raises(InputError, match="adreno-64"):
        optimize(model, options=OptimizeOptions(device="adreno-64"))


def test_distillation_comes_last(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    def stop(*args: Any, **_: object) -> None:
        raise InputError(format_pipeline(args[1]))

    monkeypatch.setattr("graphopt.optimizer.optimize.run_pipeline", stop)
    monkeypatch.setattr("graphopt.optimizer.optimize.detect_pose_spec", lambda *_, **__: None)
    monkeypatch.setattr("graphopt.optimizer.optimize.Calibration.synthetic", lambda *_: None)
    with pytest.raises(InputError, match="canonicalize, distill"):
        optimize(model, options=OptimizeOptions(passes="canonicalize", distill=True))
    with pytest.raises(InputError, match=r"canonicalize, distill\{device=mps\}"):
        optimize(model, options=OptimizeOptions(passes="canonicalize", train_device="mps"))


def test_the_input_is_never_overwritten_unasked(
    graphopt: Graphopt, model: Path, tmp_path: Path
) -> None:
    before = model.read_bytes()
    link = tmp_path / "link.onnx"
    link.symlink_to(model)
    for out in (model, tmp_path / "." / "pose.onnx", link):
        code, _, err = graphopt("optimize", model, "-o", out)
        assert code == 1
        assert "is the input" in err
    code, _, err = graphopt("optimize", model, "--report", model)
    assert code == 1
    assert "would replace the network" in err
    assert model.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.onnx", "pose.onnx"]
    assert graphopt("optimize", model, "-o", model, "--force")[0] == 0
    assert model.read_bytes() != before


BAD = [
    (["--preset", "fast"], 2, "the presets are exact, mobile"),
    (["--passes", "fold-batchnrom"], 2, "did you mean fold-batchnorm"),
    (["--skip-passes", "fold"], 2, "there is no pass 'fold'"),
    (["--input-shape", "1,3"], 2, "has 4 dimensions, but 1x3 has 2"),
    (["--input-shape", "big"], 2, "is not an input shape"),
    (["--load", "none.py"], 1, "no Python file"),
    (["--verify", "sometimes"], 2, "each"),
    (["-o", "/proc/none/out.onnx"], 1, "cannot be written"),
    (["-o", "/"], 1, "is a folder"),
    (["--report", "/proc/none/report.json"], 1, "report.json cannot be written"),
    (["--report", "report.json", "-o", "/proc/none/out.onnx"], 1, "out.onnx cannot be written"),
]


@pytest.mark.parametrize(("args", "exit_code", "message"), BAD)
def test_bad_input_is_a_sentence_and_leaves_nothing(
    graphopt: Graphopt,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    exit_code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = graphopt("optimize", model, *args)
    assert code == exit_code
    assert message in err
    assert "Traceback" not in err
    assert not out
    assert [p.name for p in tmp_path.iterdir()] == ["pose.onnx"]


def test_exit_codes_of_bad_files(graphopt: Graphopt, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(model.read_bytes()[:100])
    assert graphopt("optimize", broken)[0] == 1
    old = onnx.load(model)
    old.opset_import[0].version = 9
    onnx.save(old, broken)
    code, _, err = graphopt("optimize", broken)
    assert code == 4
    assert "the oldest supported is 11" in err
    lying = tmp_path / "lying.py"
    lying.write_text(
        "from dataclasses import dataclass\n"
        "from graphopt.optimizer.pass_contract import Change, Numerics, Pass\n"
        "@dataclass(frozen=True)\n"
        "class Lying(Pass):\n"
        "    name, numerics = 'lying', Numerics.EXACT\n"
        "    def match(self, graph): yield graph.nodes[-1]\n"
        "    def rewrite(self, graph, site):\n"
        "        site.op = 'Add'\n"
        "        return Change('y', 'adds')\n"
    )
    args = ("optimize", model, "--passes", "lying", "--load", lying)
    code, _, err = graphopt(*args)
    assert code == 3
    assert "pass lying" in err
    assert "first tensor that departs is y" in err
    assert not model.with_name("pose.opt.onnx").exists()
    code, out, _ = graphopt(*args, "--on-fail", "revert")
    assert code == 0
    assert "was taken back" in out


@pytest.mark.parametrize(
    ("inputs", "body"),
    [
        ("float[1,3,8,8] x", "y = com.microsoft.NoSuch(x)"),
        ("bfloat16[1,3,8,8] x", "y = Relu(x)"),
        ("seq(float[3]) x", "y = ConcatFromSequence<axis=0>(x)"),
    ],
)
def test_what_onnxruntime_does_not_run(
    graphopt: Graphopt, proto: MakeProto, tmp_path: Path, inputs: str, body: str
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(
        proto(inputs, inputs.replace("x", "y").replace("seq(float[3])", "float[N]"), body), path
    )
    code, _, err = graphopt("optimize", path)
    assert code == 4
    assert "--verify off" in err
    code, out, _ = graphopt("optimize", path, "--verify", "off")
    assert code == 0
    assert "differences" not in out
    assert graphopt("inspect", path)[0] == 0


def test_a_size_at_which_the_network_fails(
    graphopt: Graphopt, proto: MakeProto, normal: Normal, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(
        proto("float[1,C,8,8] x", "float[1,4,8,8] y", "y = Conv(x, w)", w=normal(4, 3, 1, 1)), path
    )
    code, _, err = graphopt("optimize", path, "--input-shape", "1,5,8,8")
    assert code == 1
    assert "try another size with --input-shape" in err
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))


def test_a_disk_that_fills_up(model: Path, tmp_path: Path) -> None:
    """The operating system stops the file at 300 bytes: exit 1, a sentence, nothing left."""
    result = subprocess.run(
        [sys.executable, "-c", MAIN, "optimize", str(model), "--verify", "off"],
        preexec_fn=_small_files,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert result.returncode == 1, result.stderr
    assert "pose.opt.onnx cannot be written" in result.stderr
    assert "Traceback" not in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["pose.onnx"]


def test_help_imports_nothing_heavy() -> None:
    """What keeps `graphopt --help` quick."""
    heavy = ["tvm", "torch", "onnx", "onnx_graphsurgeon", "onnxruntime", "numpy", "scipy", "PIL"]
    code = f"import sys, graphopt.cli; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


# --- passes, inspect ----------------------------------------------------------------------------


def test_passes_list_and_show(graphopt: Graphopt) -> None:
    code, out, _ = graphopt("passes", "list")
    assert code == 0
    for word in ("canonicalize", "fold-batchnorm", "replace-swish", "approximate", "preset mobile"):
        assert word in out
    listed = json.loads(graphopt("passes", "list", "--json")[1])
    assert {p["name"] for p in listed["passes"]} >= {"canonicalize", "fold-batchnorm"}
    code, out, _ = graphopt("passes", "show", "replace-swish")
    assert code == 0
    assert "gate: hard | fitted |" in out
    assert "When it skips:" in out
    code, _, err = graphopt("passes", "show", "replace-swihs")
    assert code == 2
    assert "did you mean replace-swish" in err


def test_inspect(graphopt: Graphopt, model: Path) -> None:
    code, out, _ = graphopt("inspect", model)
    assert code == 0
    assert "BatchNormalization" in out
    seen = json.loads(graphopt("inspect", model, "--json", "--input-shape", "x:1,3,16,20")[1])
    conv = seen["layers"][0]
    assert conv == {
        "name": "c",
        "op": "Conv",
        "kernel": [3, 3],
        "stride": [1, 1],
        "dilation": [1, 1],
        "group": 1,
        "output_shape": [1, 4, 16, 20],
        "params": 108,
        "macs": 108 * 320,
        "bytes": 432,
        "kept": 1.0,
    }
    assert seen["totals"]["macs"] == 108 * 320
    assert seen["ops"]["Sigmoid"] == 2


def test_inspect_two(graphopt: Graphopt, model: Path) -> None:
    optimize(model, options=OptimizeOptions(input_shape=("1,3,16,20",)))
    other = model.with_name("pose.opt.onnx")
    code, out, _ = graphopt("inspect", model, other)
    assert code == 0
    assert "layers that differ" in out
    told = json.loads(graphopt("inspect", model, other, "--json")[1])
    assert told["a"]["sizes"] == told["b"]["sizes"] == {"x": [1, 3, 16, 20]}
    differing = {entry["name"]: entry for entry in told["difference"]}
    # Nodes without a name go by what they make: n came from the normalization, now from the Conv.
    assert set(differing) == {"c", "n", "i"}
    assert differing["i"]["b"] is differing["c"]["b"] is None
    assert (differing["n"]["a"]["op"], differing["n"]["b"]["op"]) == ("BatchNormalization", "Conv")
    assert differing["n"]["b"]["params"] == 112


def test_costs_of_every_counted_operator(proto: MakeProto, normal: Normal, tmp_path: Path) -> None:
    model = proto(
        "float[2,4,6,8] x",
        "float[2,6,12,16] t, float[2,5] g, float[2,4,6,3] m, float[2,4,6,8] s",
        """t = ConvTranspose<group=2, strides=[2,2]>(x, wt) p = GlobalAveragePool(x)
           f = Flatten(p) g = Gemm<transB=1>(f, wg) m = MatMul(x, wm)
           c = Conv<group=4>(x, wc) s = Conv<group=4>(c, wc)""",
        wt=normal(4, 3, 2, 2),
        wg=normal(5, 4),
        wm=normal(8, 3),
        wc=normal(4, 1, 1, 1),
    )
    onnx.save(model, tmp_path / "m.onnx")
    (seen,) = inspect_models([tmp_path / "m.onnx"])
    macs = {layer.name: layer.macs for layer in seen.layers if layer.macs}
    assert macs == {
        "t": 2 * 4 * 6 * 8 * 3 * 4,
        "g": 2 * 4 * 5,
        "m": 2 * 4 * 6 * 8 * 3,
        "c": 2 * 4 * 6 * 8,
        "s": 2 * 4 * 6 * 8,
    }
    # The two depthwise layers share one weight: it is counted once.
    assert seen.totals.params == 48 + 20 + 24 + 4
    assert seen.totals.bytes == 4 * seen.totals.params


@pytest.mark.assets
def test_cost_of_lightweight_openpose(lwop: Path) -> None:
    (seen,) = inspect_models([lwop], {"data": (1, 3, 368, 656)})
    assert seen.totals.params == pytest.approx(4.10e6, rel=0.01)
    assert seen.ops["Conv"] == 58


def test_counts_for_people() -> None:
    assert [human(n) for n in (0, 7, 999, 1000, 98_765, 4_100_000, 1_530_000_000)] == [
        "0",
        "7",
        "999",
        "1.00 k",
        "98.8 k",
        "4.10 M",
        "1.53 G",
    ]


def test_the_working_folder_may_be_anywhere(
    graphopt: Graphopt, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    assert graphopt("optimize", Path("pose.onnx"))[0] == 0
    assert Path("pose.opt.onnx").exists()


# --- the network after each pass ----------------------------------------------------------------


def test_the_network_after_each_pass(graphopt: Graphopt, model: Path, tmp_path: Path) -> None:
    dumps = tmp_path / "dumps"
    code, _, err = graphopt(
        *("optimize", model, "--preset", "exact", "--passes", "replace-swish{gate=hard}"),
        *("--verify", "end", "--on-fail", "revert", "--dump-dir", dumps),
    )
    assert code == 0, err
    assert sorted(path.name for path in dumps.iterdir()) == [
        "00-input.onnx",
        "01-canonicalize.onnx",
        "02-fold-batchnorm.onnx",
        "03-canonicalize.onnx",
        "04-replace-swish.onnx",
    ]
    networks = {path.name: onnx.load(path) for path in dumps.iterdir()}
    for network in networks.values():
        onnx.checker.check_model(network, full_check=True)
    kinds = {name: [n.op_type for n in net.graph.node] for name, net in networks.items()}
    assert "BatchNormalization" in kinds["01-canonicalize.onnx"]
    assert "BatchNormalization" not in kinds["02-fold-batchnorm.onnx"]
    result = onnx.load(model.with_name("pose.opt.onnx"))
    assert kinds["04-replace-swish.onnx"] == [node.op_type for node in result.graph.node]


def test_dumps_replace_nothing(graphopt: Graphopt, model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    for folder in (tmp_path, model):
        code, _, err = graphopt("optimize", model, "--passes", "canonicalize", "--dump-dir", folder)
        assert code == 1
        assert "is no empty folder" in err
    assert model.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["pose.onnx"]
