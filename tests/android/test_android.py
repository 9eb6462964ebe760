"""`graphopt android build`, and the example app as far as it can be tried without a phone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

from graphopt.cli import app
from graphopt.codegen.linking.android_sdk import find_ndk
from graphopt.devices import android
from graphopt.errors import InputError, Unsupported
from graphopt.pose.estimate import Estimator
from graphopt.pose.open import open_engine
from graphopt.runtime.bundle import read_bundle

pytestmark = pytest.mark.android

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MAIN = EXAMPLES / "android" / "app" / "src" / "main"
BUNDLE = ("NOTICE", "kernels.so", "manifest.json", "plan.json", "pose.json", "weights.bin")
FOLDER = {
    *("LICENSE", "NOTICE", "graphopt.h", "arm64-v8a/graphopt-run", "arm64-v8a/libgraphopt.so"),
    *(f"bundle/{name}" for name in BUNDLE),
}
REAL_NDK = find_ndk()

Ndk = Callable[[Path, str], Path]


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name}")
    return path


def run(*command: str | Path, **variables: str) -> str:
    """What a program wrote, if it succeeded."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | variables,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def graphopt(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["android", "build", *map(str, arguments)])


def make_ndk(folder: Path, toolchain: str = "") -> Path:
    """A folder that stands for an NDK; without words of CMake it compiles for this machine."""
    file = folder / "build" / "cmake" / "android.toolchain.cmake"
    file.parent.mkdir(parents=True)
    file.write_text(toolchain)
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def _no_ndk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the NDKs that a test makes are there, and nobody's cache is touched."""
    for name in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bundle(bundle: Callable[[str], Path]) -> Path:
    """The demo network for this machine's CPU."""
    return bundle("cpu")


def altered(bundle: Path, copy: Path, host: str) -> Path:
    """A copy of a bundle that says to be for another machine."""
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["target"]["host"] = host
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


@pytest.fixture(scope="module")
def for_phones(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("arm") / "demo.graphopt"
    return altered(bundle, copy, "aarch64-linux-android")


@pytest.fixture(scope="module")
def phone(for_phones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command lays out, but with the runner built for this machine."""
    tool("cmake")
    tool("c++")
    folder = tmp_path_factory.mktemp("phone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("ANDROID_NDK_HOME", str(make_ndk(folder / "ndk")))
        done = graphopt(for_phones)
        assert done.exit_code == 0, (done.output, done.exception)
        written = for_phones.with_suffix(".android")
        assert done.stdout.startswith(f"{written}: ")
        again = folder / "phone"
        # From the cache: there is nothing left to build with.
        patch.setenv("ANDROID_NDK_HOME", str(folder / "ndk"))
        patch.setattr(subprocess, "run", None)
        android.build(for_phones, again)
    assert files(written) == files(again) == FOLDER
    return again


def test_all_that_a_phone_needs_is_in_one_folder(phone: Path, for_phones: Path) -> None:
    assert read_bundle(phone / "bundle").manifest == read_bundle(for_phones).manifest
    help_text = run(phone / "arm64-v8a" / "graphopt-run", "--help")
    assert help_text.startswith("usage: graphopt-run BUNDLE")
    assert "libc++" in (phone / "NOTICE").read_text()
    assert "Apache TVM" in (phone / "bundle" / "NOTICE").read_text()
    assert "Apache License" in (phone / "LICENSE").read_text()
    assert not (android.SOURCES / "build" / "android-arm64").exists()


def test_its_pages_may_be_of_16_kb(phone: Path) -> None:
    for name in ("graphopt-run", "libgraphopt.so"):
        said = run(tool("readelf"), "-lW", phone / "arm64-v8a" / name)
        segments = [line.split()[-1] for line in said.splitlines() if line.startswith("  LOAD")]
        assert segments
        assert {int(align, 16) % 0x4000 for align in segments} == {0}  # pages of 16 KB


def test_an_older_folder_is_replaced_and_nothing_else(
    phone: Path, for_phones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = phone / "arm64-v8a" / "graphopt-run"
    monkeypatch.setattr(android, "build_runner", lambda progress: program)
    older = tmp_path / "older"
    shutil.copytree(phone, older)
    (older / "bundle" / "weights.bin").write_bytes(b"")
    android.build(for_phones, older)
    assert read_bundle(older / "bundle")
    (older / "photo.jpg").touch()
    with pytest.raises(InputError, match="exists, and is not what this command writes"):
        android.build(for_phones, older)
    for place in (older / "bundle", older):
        with pytest.raises(InputError, match="holds the input"):
            android.build(older / "bundle", place)
    assert (older / "photo.jpg").exists()


def test_bundles_that_no_phone_can_run_are_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"was compiled for .*-linux-gnu, not for phones"):
        android.build(bundle, tmp_path / "out")
    with pytest.raises(InputError, match="is not a bundle"):
        android.build(tmp_path, tmp_path / "out")
    bare = read_bundle(bundle)
    target = replace(bare.manifest.target, host="")
    manifest = replace(bare.manifest, target=target)
    plan = replace(bare.plan, decoder=None)
    with pytest.raises(Unsupported, match="has no decoder"):
        android.check_for_phones(replace(bare, manifest=manifest, plan=plan))
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_named(
    for_phones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = graphopt(for_phones, "-o", tmp_path / "out")
    assert isinstance(done.exception, Unsupported)
    assert done.exception.exit_code == 4
    for word in ("Android NDK", "r26", "sdkmanager", "ANDROID_NDK_HOME", "linked already"):
        assert word in str(done.exception)
    monkeypatch.setenv("ANDROID_NDK_HOME", str(make_ndk(tmp_path / "ndk")))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unsupported, match="there is no CMake"):
        android.build(for_phones, tmp_path / "out")
    assert files(tmp_path) == {"ndk/build/cmake/android.toolchain.cmake"}


def test_an_ndk_that_cannot_is_told_by_its_own_words(
    for_phones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool("cmake")
    ndk = make_ndk(tmp_path / "ndk", 'message(FATAL_ERROR "of the stone age")')
    monkeypatch.setenv("ANDROID_NDK_HOME", str(ndk))
    with pytest.raises(Unsupported, match="of the stone age"):
        android.build(for_phones, tmp_path / "out")
    assert files(tmp_path) == {"ndk/build/cmake/android.toolchain.cmake"}


def test_the_ndk_is_what_is_named_or_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_ndk() is None
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path))
    (tmp_path / "ndk" / "99.0.1").mkdir(parents=True)  # left behind, empty
    made = [make_ndk(tmp_path / "ndk" / v) for v in ("9.1.2", "27.2.12479018", "26.3.1")]
    assert find_ndk() == made[1]
    monkeypatch.setenv("ANDROID_NDK_ROOT", str(made[2]))
    assert find_ndk() == made[2]
    monkeypatch.setenv("ANDROID_NDK_HOME", str(make_ndk(tmp_path / "mine")))
    assert find_ndk() == tmp_path / "mine"


def test_a_real_ndk_builds_for_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if REAL_NDK is None:
        pytest.skip("there is no Android NDK (set ANDROID_NDK_HOME)")
    tool("cmake")
    monkeypatch.setenv("ANDROID_NDK_HOME", str(REAL_NDK))
    program = android.build_runner()
    for path in (program, program.with_name("libgraphopt.so")):
        header = path.read_bytes()[:20]
        assert header[:5] == b"\x7fELF\x02"
        assert header[18:20] == b"\xb7\x00"  # AArch64


# --- the example app ----------------------------------------------------------------------------


def java_home() -> Path:
    return Path(tool("javac")).resolve().parents[1]


def jni() -> list[str]:
    include = java_home() / "include"
    return [f"-I{include}", f"-I{include / 'linux'}"]


Planes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]


def laid_out(planes: Planes, kind: str, turn: int, file: Path) -> str:
    """A frame as a camera would give it that must be turned, for People.java."""
    y, u, v = (np.rot90(plane, turn // 90) for plane in planes)
    (height, width), pad = y.shape, 24

    def padded(plane: NDArray[np.uint8]) -> bytes:
        return np.pad(plane, ((0, 0), (0, pad)), constant_values=255).tobytes()

    if kind == "planar":
        chroma = padded(u) + padded(v)
        places, row, pixel = (0, len(chroma) // 2), width // 2 + pad, 1
    else:
        pair = (v, u) if kind == "nv21" else (u, v)
        chroma = padded(np.stack(pair, -1).reshape(height // 2, width))
        places, row, pixel = ((1, 0) if kind == "nv21" else (0, 1)), width + pad, 2
    luma = padded(y)
    # No byte more than a camera's buffers have.
    file.write_bytes((luma + chroma)[:-pad])
    start = [len(luma) + place for place in places]
    numbers = (width, height, width + pad, *start, row, pixel, turn)
    return ",".join(map(str, (file, *numbers)))


@pytest.fixture(scope="module")
def frame() -> tuple[Planes, Image.Image]:
    """The demo's picture as planes Y, U, V, and as the RGB that they stand for."""
    with Image.open(EXAMPLES / "demo.png") as photo:
        ycc = np.asarray(photo.convert("RGB").resize((640, 360)).convert("YCbCr"))
    y, u, v = ycc[..., 0], ycc[::2, ::2, 1], ycc[::2, ::2, 2]
    blue, red = (plane.repeat(2, 0).repeat(2, 1) - 128.0 for plane in (u, v))
    rgb = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], -1)
    return (y, u, v), Image.fromarray(rgb.round().clip(0, 255).astype(np.uint8))


def test_the_apps_native_part_finds_what_python_finds(
    phone: Path, bundle: Path, frame: tuple[Planes, Image.Image], tmp_path: Path
) -> None:
    planes, picture = frame
    settings = [f"-DGRAPHOPT={phone}", "-DANDROID_ABI=arm64-v8a"]
    flags = f"-DCMAKE_CXX_FLAGS={' '.join(jni())}"
    run("cmake", "-S", MAIN / "cpp", "-B", tmp_path / "build", flags, *settings)
    run("cmake", "--build", tmp_path / "build")
    runner = MAIN / "java" / "org" / "graphopt" / "poses" / "PoseRunner.java"
    people = Path(__file__).with_name("People.java")
    strict = ("-Xlint:all", "-Werror", "--release", "11")
    run(tool("javac"), *strict, "-d", tmp_path, runner, people)
    kinds = [("nv21", 0), ("nv12", 0), ("planar", 0), ("nv21", 90), ("planar", 180), ("nv12", 270)]
    frames = [laid_out(planes, kind, turn, tmp_path / f"{kind}{turn}.yuv") for kind, turn in kinds]
    command = (tool("java"), "-Xcheck:jni", f"-Djava.library.path={tmp_path / 'build'}")
    said = run(*command, "-cp", tmp_path, "People", bundle, *frames)
    device, *lines = [json.loads(line) for line in said.splitlines()]
    assert device == "cpu"

    engine, spec = open_engine(bundle)
    wanted = Estimator(engine, spec)(picture).people
    first = lines[0]
    assert len(first) == len(wanted) >= 4
    for got, person in zip(first, wanted, strict=True):
        np.testing.assert_allclose(got[0], person.score, atol=1e-3)
        np.testing.assert_allclose(np.reshape(got[1:], (-1, 3)), person.keypoints, atol=0.2)
    for (kind, turn), other in zip(kinds, lines, strict=False):
        assert other == first, f"{kind}, turned by {turn}"

    errors = lines[len(kinds) :]
    names = [error.partition(": ")[0].removeprefix("java.lang.Illegal") for error in errors]
    assert names == ["ArgumentException"] * 9 + ["StateException"]
    assert "/naïve is not a bundle" in errors[0]
    assert "cannot be turned by 45 degrees" in errors[2]
    for error in errors[3:6]:
        assert error.endswith("a plane is no direct buffer, or shorter than its image")


@pytest.mark.parametrize("compiler", ["clang++", "aarch64-linux-gnu-g++", "ziglang"])
def test_the_apps_native_part_compiles_without_a_warning(
    compiler: str, phone: Path, tmp_path: Path
) -> None:
    command = [compiler]
    if compiler == "ziglang":
        pytest.importorskip("ziglang")
        command = [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-musl"]
    else:
        tool(compiler)
    warnings = ("-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror", "-std=c++17")
    source = MAIN / "cpp" / "poses.cpp"
    output = ("-c", "-o", tmp_path / "poses.o")
    run(*command, *output, *warnings, f"-I{phone}", *jni(), source)


def android_jar(folder: Path) -> Path:
    """The Android SDK's android.jar, or one with the signatures that the app needs."""
    for home in (os.environ.get("ANDROID_HOME"), os.environ.get("ANDROID_SDK_ROOT")):
        for jar in sorted(Path(home or "/nowhere").glob("platforms/android-3*/android.jar")):
            return jar
    try:
        stubs = Path(str(metadata.distribution("chaquopy-stubs-android").locate_file("")))
    except metadata.PackageNotFoundError:
        pytest.skip("there is no android.jar, and no chaquopy-stubs-android in place of one")
    script = Path(__file__).with_name("android_api.py")
    run(sys.executable, script, stubs, MAIN / "java", folder / "api")
    sources = (folder / "api").rglob("*.java")
    run(tool("javac"), "-nowarn", "-Xlint:none", "-d", folder / "api", *sources)
    return folder / "api"


def test_the_app_compiles_against_androids_api(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    jar = android_jar(tmp_path)
    lint = "-Xlint:all,-options,-classfile"
    command = (tool("javac"), "--release", "11", lint, "-Werror", "-cp", jar, "-d", tmp_path)
    run(*command, *(MAIN / "java").rglob("*.java"))
    assert (tmp_path / "org" / "graphopt" / "poses" / "PoseActivity.class").exists()
    wrong = tmp_path / "Wrong.java"
    wrong.write_text(
        "class Wrong { int size(android.media.Image image) { return image.getSize(); } }"
    )
    done = subprocess.run([*command, wrong], capture_output=True, text=True, check=False)
    assert "cannot find symbol" in done.stderr


def test_the_manifest_is_one_of_androids(tmp_path: Path) -> None:
    framework = Path("/usr/share/android-framework-res/framework-res.apk")
    if not framework.exists():
        pytest.skip("there is no android-framework-res")
    text = (MAIN / "AndroidManifest.xml").read_text()
    # As Gradle does, with the app's namespace.
    named = text.replace("<manifest ", '<manifest package="org.graphopt.poses" ')
    (tmp_path / "AndroidManifest.xml").write_text(named)
    # Elements that are younger than Debian's framework are warned of; attributes must be known.
    link = (tool("aapt2"), "link", "--warn-manifest-validation", "--min-sdk-version", "28")
    place = ("--manifest", tmp_path / "AndroidManifest.xml", "-I", framework)
    run(*link, *place, "-o", tmp_path / "app.apk")
    said = run(tool("aapt"), "dump", "badging", tmp_path / "app.apk")
    assert "uses-permission: name='android.permission.CAMERA'" in said
    assert "launchable-activity: name='org.graphopt.poses.PoseActivity'" in said


def test_the_app_may_load_opencl() -> None:
    """What the runner tries by name, an app must name, else Android 12 keeps it away."""
    manifest = ElementTree.parse(MAIN / "AndroidManifest.xml")
    space = "{http://schemas.android.com/apk/res/android}"
    named = {
        element.get(f"{space}name"): element.get(f"{space}required")
        for element in manifest.iter("uses-native-library")
    }
    assert named == {"libOpenCL.so": "false", "libOpenCL-pixel.so": "false"}
