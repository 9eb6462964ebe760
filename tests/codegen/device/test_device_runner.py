"""The device runner (codegen/device) finds what Python finds, and no bundle crashes it."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime.quantization import QuantFormat, quantize_static
from PIL import Image
from quantised_networks import Given

from graphopt.compiler.compile import compile_model
from graphopt.compiler.options import CompileOptions
from graphopt.pose.decode_options import DecodeOptions
from graphopt.pose.estimate import Estimator, Result
from graphopt.pose.kernel_decoder import thresholds
from graphopt.pose.open import open_engine
from graphopt.pose.options import PoseOptions
from graphopt.pose.preprocess import fitted, prepare
from graphopt.pose.resample import table
from graphopt.pose.spec import Preprocess
from graphopt.runtime.bundle import read_bundle, sha256
from graphopt.runtime.cpu import cpu_features
from graphopt.runtime.plan import FORMAT
from graphopt.runtime.precision import bundle_precision

ROOT = Path(__file__).resolve().parents[3]
DEVICE = ROOT / "codegen" / "device"
PHOTO = ROOT / "examples" / "demo.png"
TARGETS = ["cpu", pytest.param("opencl", marks=pytest.mark.opencl)]

Build = Callable[[str], Path]
Bundles = Callable[..., Path]
Pictures = Callable[[int, int], Path]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """The demo's photo at a width and height, as PPM."""

    @cache
    def make(width: int, height: int) -> Path:
        path = tmp_path_factory.mktemp("pictures") / f"{width}x{height}.ppm"
        with Image.open(PHOTO) as photo:
            photo.convert("RGB").resize((width, height)).save(path)
        return path

    return make


@cache
def _opencl() -> dict[str, str]:
    """The environment in which the device runner finds pyopencl's device."""
    import pyopencl

    pyopencl.get_platforms()
    files = re.findall(r"/\S+$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    names = {"GRAPHOPT_OPENCL": "libOpenCL", "OCL_ICD_VENDORS": "libpocl"}
    found = {key: [f for f in files if Path(f).name.startswith(n)] for key, n in names.items()}
    # The loader in pyopencl's wheel wants to know where that is.
    home = {"PYOPENCL_HOME": os.environ["PYOPENCL_HOME"]} if "PYOPENCL_HOME" in os.environ else {}
    return {key: paths[0] for key, paths in found.items() if paths} | home


def run(
    runner: Path, bundle: Path, *arguments: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """What the program did."""
    gpu = (bundle / "kernels.cl").exists() and not variables
    environment = os.environ | (_opencl() if gpu else {}) | variables
    return subprocess.run(
        [runner, bundle, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )


def people(done: subprocess.CompletedProcess[str]) -> Any:
    """Its --json, but for the picture's name."""
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    return result | {"image": ""}


def expected(bundle: Path, photo: Path) -> Any:
    """What Python says."""
    engine, spec = open_engine(bundle)
    with Image.open(photo) as image:
        found = Estimator(engine, spec)(image.convert("RGB"))
        result = Result("", image.width, image.height, found, 0)
    return result.to_json(spec.skeleton)


def alike(got: Any, wanted: Any, tolerance: float = 0.002) -> bool:
    """The same people, but for roundings."""
    one, other = (result | {"people": []} for result in (got, wanted))
    points = [[p["keypoints"] for p in result["people"]] for result in (got, wanted)]
    scores = [[p["score"] for p in result["people"]] for result in (got, wanted)]
    return one == other and all(
        np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=0, atol=tolerance)
        for a, b in (points, scores)
    )


def plan_of(bundle: Path) -> Any:
    """Its plan, as JSON has it."""
    return json.loads((bundle / "plan.json").read_bytes())


def changed(bundle: Path, copy: Path, **fields: Any) -> Path:
    """A copy of a bundle with other fields of its plan."""
    shutil.copytree(bundle, copy)
    data = json.dumps(plan_of(copy) | fields).encode()
    (copy / "plan.json").write_bytes(data)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["files"]["plan.json"] = {"bytes": len(data), "sha256": sha256(data)}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [(640, 360), (1312, 736), (300, 700), (31, 17), (1, 1), (900, 2)])
def test_people_are_those_of_python(
    target: str,
    size: tuple[int, int],
    runner: Path,
    bundle: Bundles,
    pictures: Pictures,
) -> None:
    photo, path = pictures(*size), bundle(target)
    wanted = expected(path, photo)
    assert wanted["people"] or min(size) <= 300
    assert alike(people(run(runner, path, "--rgb", photo, "--json")), wanted)


@pytest.mark.skipif("avx512_bf16" not in cpu_features(), reason="this CPU has no avx512_bf16")
def test_bfloat16_people_are_those_of_python(
    runner: Path, bundle: Bundles, pictures: Pictures
) -> None:
    photo, path = pictures(640, 360), bundle("cpu", precision="bfloat16")
    wanted = expected(path, photo)
    assert wanted["people"]
    assert alike(people(run(runner, path, "--rgb", photo, "--json")), wanted)
    known = expected(bundle("cpu", precision="float32"), photo)
    assert len(known["people"]) == len(wanted["people"])
    check_places(wanted["people"], known["people"])


def check_places(people: Any, known: Any) -> None:
    """People are where float32 sees them, within a fraction of a map's pixel.

    In whichever order, and those alone that are no chance of roundings.
    """
    said, sure = ([p for p in found if p["score"] > 0.2] for found in (people, known))
    assert len(said) == len(sure) > 1
    for person in sure:
        shifts = [
            np.median(np.abs(np.subtract(person["keypoints"], other["keypoints"])[:, :2]))
            for other in said
        ]
        assert min(shifts) < 1


@pytest.mark.parametrize(("precision", "feature"), [("bfloat16", "bf16"), ("float16", "asimdhp")])
def test_low_precision_on_arm(
    precision: str, feature: str, emulated: Path, bundle: Bundles, pictures: Pictures
) -> None:
    path, photo = bundle("cpu", host="aarch64-linux-gnu", precision=precision), pictures(640, 360)
    assert bundle_precision(read_bundle(path)) == precision
    arguments = ("--rgb", photo, "--json", "--threads", "2")
    got = people(run(emulated, path, *arguments, QEMU_CPU="max"))
    known = expected(bundle("cpu", precision="float32"), photo)
    check_places(got["people"], known["people"])
    old = run(emulated, path, *arguments, QEMU_CPU="cortex-a53")
    assert old.returncode == 4
    assert f"CPU with {feature}, which" in old.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_the_only_person_is_that_of_python(
    target: str,
    runner: Path,
    pictures: Pictures,
    tmp_path: Path,
) -> None:
    compile_model(
        ROOT / "examples" / "demo.onnx",
        tmp_path / "bundle",
        CompileOptions(
            target=target,
            input_shape=("1,3,256,456",),
            pose=PoseOptions(maps="heat=heat"),
        ),
    )
    photo = pictures(640, 360)
    wanted = expected(tmp_path / "bundle", photo)
    assert len(wanted["people"]) == 1
    assert "people" not in plan_of(tmp_path / "bundle")["decoder"]["outputs"]
    assert alike(people(run(runner, tmp_path / "bundle", "--rgb", photo, "--json")), wanted)


@pytest.mark.opencl
def test_people_of_a_quantised_network(runner: Path, pictures: Pictures, tmp_path: Path) -> None:
    demo, file = ROOT / "examples" / "demo.onnx", tmp_path / "int8.onnx"
    _, spec = open_engine(demo)
    photo = pictures(640, 360)
    with Image.open(photo) as image:
        shown, _ = prepare(image, spec.preprocess, (128, 224))
    some = [f"{layer}.conv/Conv" for layer in ("trunk.1.squeeze", "trunk.1.look", "draft.0")]
    quantize_static(
        demo, file, Given([{"image": shown}]), quant_format=QuantFormat.QDQ, nodes_to_quantize=some
    )
    options = CompileOptions(target="opencl", input_shape=("1,3,128,224",), on_fail="warn")
    compile_model(file, tmp_path / "bundle", options)
    wanted = expected(tmp_path / "bundle", photo)
    assert wanted["people"]
    kernels = [launch["kernel"] for launch in plan_of(tmp_path / "bundle")["launches"]]
    for kind in ("conv_int8_gpu", "conv_int8_depthwise"):
        assert any(kernel.startswith(kind) for kernel in kernels)
    assert alike(people(run(runner, tmp_path / "bundle", "--rgb", photo, "--json")), wanted)


def test_photos_become_bytes_of_a_quantised_network(
    runner: Path, pictures: Pictures, tmp_path: Path
) -> None:
    """At once by kernels, or by way of floats where the host prepares them."""
    demo, file = ROOT / "examples" / "demo.onnx", tmp_path / "int8.onnx"
    _, spec = open_engine(demo)
    photo = pictures(640, 360)
    with Image.open(photo) as image:
        shown, _ = prepare(image, spec.preprocess, (128, 224))
    # Of -1..1 in 255 steps, each value of a photo would be a tie.
    wider = Given([{"image": 1.1 * shown}])
    quantize_static(demo, file, wider, quant_format=QuantFormat.QDQ)
    options = CompileOptions(target="cpu", input_shape=("1,3,128,224",), on_fail="warn")
    compile_model(file, tmp_path / "bundle", options)
    plan = plan_of(tmp_path / "bundle")
    (first,) = [launch for launch in plan["launches"] if launch["stage"] == "input"]
    placing = next(launch for launch in plan["launches"] if launch["kernel"] == "place_photo")
    assert placing["arguments"][-1] == first["arguments"][-1]
    wanted = expected(tmp_path / "bundle", photo)
    assert wanted["people"]
    assert alike(people(run(runner, tmp_path / "bundle", "--rgb", photo, "--json")), wanted)
    bare = changed(tmp_path / "bundle", tmp_path / "bare", preparation=None)
    assert alike(expected(bare, photo), wanted)
    assert alike(people(run(runner, bare, "--rgb", photo, "--json")), wanted)


@pytest.mark.parametrize("target", TARGETS)
def test_thresholds_are_the_bundles(
    target: str,
    runner: Path,
    bundle: Bundles,
    pictures: Pictures,
    tmp_path: Path,
) -> None:
    path, photo = bundle(target), pictures(640, 360)
    decoder = plan_of(path)["decoder"]

    def found(**options: Any) -> subprocess.CompletedProcess[str]:
        defaults = thresholds(DecodeOptions(**options)).tolist()
        place = tmp_path / "-".join(options)
        other = changed(path, place, decoder=decoder | {"defaults": defaults})
        return run(runner, other, "--rgb", photo, "--json")

    wanted = expected(path, photo)["people"]
    scores = sorted(person["score"] for person in wanted)
    least = (scores[0] + scores[-1]) / 2
    assert 0 < len(people(found(min_score=least))["people"]) < len(wanted)
    assert not people(found(peak_threshold=2))["people"]
    assert "decoder.defaults[1] is too large" in found(paf_threshold=1e30).stderr


def test_people_are_those_of_python_on_arm(
    emulated: Path,
    bundle: Bundles,
    pictures: Pictures,
    tmp_path: Path,
) -> None:
    if shutil.which("ld.lld") is None and importlib.util.find_spec("ziglang") is None:
        pytest.skip("there is no linker for other machines (pip install 'graphopt[android]')")
    path, photo = bundle("cpu", host="aarch64-linux-gnu"), pictures(640, 360)
    halves = tmp_path / "halves"
    shutil.copytree(path, halves)
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest["target"]["cpu_features"].append("asimdhp")
    (halves / "manifest.json").write_text(json.dumps(manifest))
    wanted = expected(bundle("cpu"), photo)
    assert wanted["people"]
    arguments = ("--rgb", photo, "--json", "--threads", "2")
    got = people(run(emulated, halves, *arguments, QEMU_CPU="max"))
    assert alike(got, wanted, tolerance=0.05)
    old = run(emulated, halves, *arguments, QEMU_CPU="cortex-a53")
    assert old.returncode == 4
    assert "was compiled for a CPU with asimdhp, which this one lacks" in old.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_memory_does_not_grow(
    target: str,
    runner: Path,
    bundle: Bundles,
    pictures: Pictures,
    tmp_path: Path,
) -> None:
    small = bundle(target, size=(64, 96))
    # As many people as there is room for.
    defaults = thresholds(DecodeOptions(peak_threshold=0, min_parts=1)).tolist()
    decoder = plan_of(small)["decoder"] | {"defaults": defaults}
    crowd = changed(small, tmp_path / "crowd", decoder=decoder)
    arguments = ("--rgb", pictures(640, 360), "--repeat", "1000", "--json", "--details")
    said = people(run(runner, crowd, *arguments))
    assert len(said["people"]) == decoder["max_people"]
    assert 1 < said["mb_at_the_end"] < said["mb_halfway"] + 0.2


def test_photos_are_prepared_here_where_no_kernel_does_it(
    runner: Path,
    bundle: Bundles,
    pictures: Pictures,
    tmp_path: Path,
) -> None:
    photo, path = pictures(640, 360), bundle("cpu")
    bare = changed(path, tmp_path / "bare", preparation=None)
    assert alike(people(run(runner, bare, "--rgb", photo, "--json")), expected(path, photo))


def _tool(tmp_path: Path, compiler: str) -> Path:
    tool, sources = tmp_path / "tables", [DEVICE / f"{n}.cpp" for n in ("resample", "frame", "ppm")]
    command = [compiler, "-std=c++17", "-O2", "-ffp-contract=off", "-o", str(tool)]
    here = Path(__file__).parent / "device_tables.cpp"
    subprocess.run([*command, here, *sources, DEVICE / "files.cpp"], check=True)
    return tool


def test_photos_become_the_same_input_to_the_last_bit(tmp_path: Path, compiler: str) -> None:
    tool = _tool(tmp_path, compiler)
    draw = np.random.default_rng(0)
    pairs = [(1, 1), (2, 1), (1, 7), (1920, 368), (1080, 656), (32768, 1), (7, 32)]
    pairs += [tuple(pair) for pair in draw.integers(1, 3000, (200, 2)).tolist()]
    said = subprocess.run([tool, *map(str, sum(pairs, ()))], check=True, capture_output=True)
    numbers = np.frombuffer(said.stdout, np.int32)
    for extent, size in pairs:
        wanted = table(extent, size)
        count = 1 + wanted.size
        assert numbers[0] == len(wanted) - 2
        np.testing.assert_array_equal(numbers[1:count].reshape(wanted.shape), wanted)
        numbers = numbers[count:]
    assert not numbers.size

    means, scales = (123.675, 116.28, 103.53), (0.0171247, 0.0175070, 0.0174292)
    spec = Preprocess(color="bgr", mean=means, scale=scales)
    for width, height in ((200, 300), (33, 7), (1, 90), (640, 480)):
        photo = Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8))
        photo.save(tmp_path / "photo.ppm")
        tensor, _ = prepare(photo, spec, (96, 128))
        assert fitted(photo.size, spec, (96, 128)).canvas == (128, 96)
        said = subprocess.run(
            [tool, tmp_path / "photo.ppm", "128", "96"], check=True, capture_output=True
        )
        got = np.frombuffer(said.stdout, np.float32).reshape(tensor.shape)
        np.testing.assert_array_equal(got, tensor)


@pytest.mark.parametrize("size", [(640, 360), (641, 361)])
def test_nv21_frames(
    size: tuple[int, int],
    runner: Path,
    bundle: Bundles,
    pictures: Pictures,
    tmp_path: Path,
) -> None:
    with Image.open(pictures(*size)) as photo:
        y, u, v = np.moveaxis(np.asarray(photo.convert("YCbCr")), -1, 0)
    chroma = np.stack([v[::2, ::2], u[::2, ::2]], -1)
    (tmp_path / "frame.nv21").write_bytes(y.tobytes() + chroma.tobytes())
    # JFIF's conversion back, with each chroma for two by two pixels.
    height, width = y.shape
    v, u = np.moveaxis(chroma.repeat(2, 0).repeat(2, 1)[:height, :width] - 128.0, -1, 0)
    rgb = np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], -1)
    Image.fromarray(rgb.round().clip(0, 255).astype(np.uint8)).save(tmp_path / "same.ppm")
    wanted = people(run(runner, bundle("cpu"), "--rgb", tmp_path / "same.ppm", "--json"))
    assert len(wanted["people"]) >= 4
    frame = (tmp_path / "frame.nv21", f"{width}x{height}")
    got = people(run(runner, bundle("cpu"), "--nv21", *frame, "--json"))
    assert alike(got, wanted, tolerance=0.2)
    short = run(runner, bundle("cpu"), "--nv21", tmp_path / "frame.nv21", f"{width}x{height + 2}")
    assert short.returncode == 1
    assert "is not an NV21 picture of this size" in short.stderr


@pytest.mark.opencl
def test_compiled_programs_are_kept_and_broken_ones_made_again(
    runner: Path,
    bundle: Bundles,
    pictures: Pictures,
    tmp_path: Path,
) -> None:
    path, photo, cache = bundle("opencl"), pictures(640, 360), tmp_path / "cache"
    arguments = ("--rgb", photo, "--json", "--cache", cache)
    wanted = people(run(runner, path, *arguments))
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    for junk in (whole, b"", b"junk", whole[:-1], whole[:100] + b"x" + whole[101:]):
        kept.write_bytes(junk)
        assert people(run(runner, path, *arguments)) == wanted
        assert list(cache.iterdir()) == [kept]
        assert len(kept.read_bytes()) == len(whole)
    (tmp_path / "file").touch()
    assert people(run(runner, path, *arguments[:-1], tmp_path / "file" / "no")) == wanted


def test_a_machine_without_opencl_is_a_sentence(
    runner: Path,
    bundle: Bundles,
    pictures: Pictures,
    tmp_path: Path,
) -> None:
    path = bundle("cpu")
    shutil.copytree(path, tmp_path / "gpu")
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest["target"]["kind"] = "gpu"
    manifest["files"]["kernels.cl"] = {"bytes": 0, "sha256": sha256(b"")}
    (tmp_path / "gpu" / "kernels.cl").touch()
    (tmp_path / "gpu" / "manifest.json").write_text(json.dumps(manifest))
    plan = plan_of(path)
    for launch in plan["launches"]:
        launch |= {"grid": [1], "group": [1]}
    gpu = changed(tmp_path / "gpu", tmp_path / "other", launches=plan["launches"])
    done = run(runner, gpu, "--rgb", pictures(31, 17), GRAPHOPT_OPENCL="/nowhere/libOpenCL.so")
    assert done.returncode == 4
    assert done.stderr.startswith("error: GRAPHOPT_OPENCL: /nowhere/libOpenCL.so")


@pytest.mark.opencl
def test_opencl_behind_another_library(
    runner: Path,
    bundle: Bundles,
    pictures: Pictures,
    tmp_path: Path,
    compiler: str,
) -> None:
    front, path, photo = tmp_path / "front.so", bundle("opencl"), pictures(640, 360)
    environment = _opencl()
    library = f'-DLIBRARY="{environment["GRAPHOPT_OPENCL"]}"'
    command = [compiler, "-shared", "-fPIC", library, "-o", str(front)]
    source = Path(__file__).with_name("opencl_behind.cpp")
    subprocess.run([*command, source, "-ldl"], check=True)
    variables = environment | {"GRAPHOPT_OPENCL": str(front)}
    got = people(run(runner, path, "--rgb", photo, "--json", **variables))
    assert alike(got, expected(path, photo))


def test_bundles_that_cannot_be_run_are_sentences(
    runner: Path,
    bundle: Bundles,
    pictures: Pictures,
    tmp_path: Path,
) -> None:
    photo, path = pictures(31, 17), bundle("cpu")

    def error(where: Path, status: int = 1) -> str:
        done = run(runner, where, "--rgb", photo)
        assert done.returncode == status
        return done.stderr

    assert "is not a bundle" in error(tmp_path)
    bare = changed(path, tmp_path / "bare", decoder=None)
    assert "has no decoder: compile it with one" in error(bare)
    plan = plan_of(path)
    plan["launches"][0]["arguments"].pop()
    wrong = changed(path, tmp_path / "wrong", launches=plan["launches"])
    assert "failed: TypeError" in error(wrong, status=4)  # the kernel itself looks
    manifest = json.loads((path / "manifest.json").read_bytes()) | {"format": FORMAT + 1}
    (wrong / "manifest.json").write_text(json.dumps(manifest))
    assert f"has bundle format {FORMAT + 1}; this runner reads {FORMAT}" in error(wrong)


def test_wrong_use_is_a_sentence(
    runner: Path,
    bundle: Bundles,
    pictures: Pictures,
    tmp_path: Path,
) -> None:
    path, photo, bad = bundle("cpu"), pictures(31, 17), tmp_path / "bad.ppm"
    for content in (
        b"",
        b"P5\n1 1\n255\n0",
        b"P6\n1 1\n65535\n0",
        b"P6 2 2 255\n0123456789",
        b"P6\n",
    ):
        bad.write_bytes(content)
        assert run(runner, path, "--rgb", bad).stderr.startswith(f"error: cannot read {bad}: ")
    bad.write_bytes(b"P6 # a comment\n1 # another\n 1 255\n012")
    assert run(runner, path, "--rgb", bad).returncode == 0
    for arguments in (
        (),
        ("--rgb",),
        ("--rgb", photo, "--what"),
        ("--rgb", photo, "--repeat", "x"),
    ):
        done = run(runner, path, *arguments)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("size", [(640, 360), (1312, 736)])
def test_times(size: tuple[int, int], runner: Path, bundle: Bundles, pictures: Pictures) -> None:
    done = run(runner, bundle("cpu"), "--rgb", pictures(*size), "--repeat", "1", "--profile")
    assert re.search(r"cpu: load [\d.]+ ms, first frame [\d.]+ ms, then [\d.]+ ms", done.stderr)
    plan = plan_of(bundle("cpu"))
    launches = [launch for launch in plan["launches"] if launch["layer"]]
    for launch in launches:
        ran = launch["stage"] != "prepare" or max(size) <= plan["preparation"]["side"]
        assert (f" {launch['layer']} " in done.stderr) == ran


def test_the_header_is_plain_c(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "use.c").write_text('#include "graphopt.h"\nint main(void) { return GRAPHOPT_OK; }')
    flags = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    subprocess.run([compiler, *flags, f"-I{DEVICE}", tmp_path / "use.c"], check=True)


class _Error(ctypes.Structure):
    _fields_ = (("text", ctypes.c_char * 512),)


class _Keypoint(ctypes.Structure):
    _fields_ = (("x", ctypes.c_float), ("y", ctypes.c_float), ("score", ctypes.c_float))


class _Person(ctypes.Structure):
    _fields_ = (
        ("score", ctypes.c_float),
        ("parts", ctypes.c_int),
        ("keypoints", _Keypoint * 64),
    )


def test_the_library(runner: Path, bundle: Bundles, pictures: Pictures) -> None:
    path, photo = bundle("cpu"), pictures(640, 360)
    if not (file := runner.with_name("libgraphopt.so")).exists():
        pytest.skip("CMake is missing")
    library = ctypes.CDLL(str(file))  # for itself alone, as apps load theirs
    for name in ("device", "skeleton", "part_name", "warning"):
        getattr(library, f"graphopt_{name}").restype = ctypes.c_char_p
    error, handle, count = _Error(), ctypes.c_void_p(), ctypes.c_int(7)
    opened = (ctypes.byref(handle), ctypes.byref(error))
    assert library.graphopt_open(b"/nowhere", None, 0, *opened) == 1
    assert b"/nowhere is not a bundle" in error.text
    assert not handle
    assert library.graphopt_open(None, None, 0, *opened) == 1
    assert library.graphopt_open(bytes(path), None, 2, *opened) == 0, error.text
    assert error.text == b""

    wanted = expected(path, photo)
    with Image.open(photo) as image:
        pixels = np.asarray(image)
    wide = np.pad(pixels, ((0, 0), (0, 5), (0, 0)))  # a row is longer than the frame is wide
    people, size = (_Person * 2)(), (640, 360)

    def look(*frame: object, capacity: int = 2) -> int:
        counted = (capacity, ctypes.byref(count), ctypes.byref(error))
        status: int = library.graphopt_run_rgb(handle, *frame, people, *counted)
        return status

    start = wide.ctypes.data_as(ctypes.c_void_p)
    for _ in range(2):
        assert look(start, *size, ctypes.c_size_t(3 * 645)) == 0, error.text
        assert count.value == len(wanted["people"]) > 2
        for person, other in zip(people, wanted["people"], strict=False):
            got = [(k.x, k.y, k.score) for k in person.keypoints[: person.parts]]
            np.testing.assert_allclose(got, other["keypoints"], atol=0.002)
            assert person.score == pytest.approx(other["score"], abs=1e-4)
    for frame in ((None, *size, 1920), (start, 0, 360, 1920), (start, *size, 1919)):
        assert look(*frame[:3], ctypes.c_size_t(frame[3])) == 1
        assert error.text
        assert count.value == 0
    assert look(start, *size, ctypes.c_size_t(3 * 645), capacity=-1) == 1

    assert library.graphopt_device(handle) == b"cpu"
    assert library.graphopt_skeleton(handle).decode() == wanted["skeleton"]
    assert library.graphopt_part_count(handle) == people[0].parts
    assert library.graphopt_part_name(handle, 0) == b"nose"
    assert library.graphopt_part_name(handle, people[0].parts) is None
    assert library.graphopt_warning(handle, 0) is None
    library.graphopt_close(handle)


@pytest.mark.parametrize("target", TARGETS)
def test_threads_take_turns(target: str, runner: Path, bundle: Bundles, pictures: Pictures) -> None:
    if not (library := runner.with_name("libgraphopt.so")).exists():
        pytest.skip("CMake is missing")
    frames = [pictures(640 + 16 * i, 360 + 8 * i) for i in range(8)]
    command = [sys.executable, str(Path(__file__).with_name("take_turns.py")), str(library)]
    environment = os.environ | (_opencl() if target == "opencl" else {})
    done = subprocess.run(
        [*command, bundle(target), *frames],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_only_the_interface_is_exported(runner: Path) -> None:
    nm, library = shutil.which("nm"), runner.with_name("libgraphopt.so")
    if nm is None or not library.exists():
        pytest.skip("nm or CMake is missing")
    command = [nm, "-D", "--defined-only", str(library)]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    names = {line.split()[-1] for line in said.stdout.splitlines()}
    header = (DEVICE / "graphopt.h").read_text()
    interface = set(
        re.findall(r"(graphopt_\w+)\(", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL))
    )
    assert names == interface | {"TVMFFIErrorSetRaisedFromCStrParts"}


def test_the_format_is_pythons() -> None:
    assert f"kFormat = {FORMAT};" in (DEVICE / "bundle.h").read_text()


def test_sanitizers_find_nothing(build: Build, bundle: Bundles, pictures: Pictures) -> None:
    done = run(build("sanitize"), bundle("cpu"), "--rgb", pictures(640, 360), "--repeat", "1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", ["cpu", "opencl"])
def test_damaged_bundles_crash_nothing(
    target: str,
    build: Build,
    bundle: Bundles,
    pictures: Pictures,
) -> None:
    script = Path(__file__).with_name("damage.py")
    command: list[str | Path] = [sys.executable, script, build("sanitize"), bundle(target)]
    command += [pictures(31, 17), "100"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " people\n" in done.stdout
    assert done.stdout.count("error: ") > 10
