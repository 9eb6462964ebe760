"""Damaged bundles for the device runner: an error or people each time, and never a crash.

    python tests/codegen/device/damage.py RUNNER BUNDLE PHOTO.ppm [COUNT]

RUNNER is graphopt-run, best with sanitizers (cmake --preset sanitize). For half of the mutations
the hashes in the manifest are made right again, so that they are found later, or not at all.
Bundles are given kernels that compute nothing (`idle`): real ones follow damaged numbers anywhere.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from graphopt.runtime.bundle import sha256

HERE = Path(__file__).parent
CRASH = 99
"""The exit status of a runner whose sanitizers find something."""
NUMBERS = ("-1", "0", "1", "2147483648", "9223372036854775807", "1e999", "-0.5", "null", '"x"')
"""What numbers of a JSON file become."""


def idle(bundle: Path, place: Path) -> dict[str, str]:
    """Give a bundle kernels that compute nothing; the environment that they need."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    assert compiler is not None
    flags = ["-std=c++17", "-O1", "-g", "-shared", "-fPIC", "-fsanitize=address"]
    if (bundle / "kernels.cl").exists():
        library = place / "libOpenCL.so"
        command = [compiler, *flags, str(HERE / "idle" / "opencl.cpp"), "-o", str(library)]
        subprocess.run(command, check=True)
        return {"GRAPHOPT_OPENCL": str(library)}
    for library in bundle.glob("kernels*.so"):  # one, or one for each level
        file = library.with_suffix(".json").name.replace("kernels", "plan")
        plan = json.loads((bundle / file).read_bytes())
        names = sorted({launch["kernel"] for launch in plan["launches"]})
        listed = "-DKERNELS=" + "".join(f"K({name})" for name in names)
        source = HERE / "idle" / "kernels.cpp"
        subprocess.run([compiler, *flags, listed, str(source), "-o", str(library)], check=True)
    correct(bundle)
    return {}


def correct(bundle: Path) -> None:
    """Let the manifest say what the files are now, as far as it can be read."""
    path = bundle / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        for name, file in manifest["files"].items():
            data = (bundle / name).read_bytes()
            file |= {"bytes": len(data), "sha256": sha256(data)}
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return
    path.write_text(json.dumps(manifest, indent=1))


def damaged(data: bytes, is_json: bool, choose: random.Random) -> bytes:
    """A file cut off, with bits flipped, or with another number or line in its JSON."""
    how = choose.choice(("cut", "flip", "number", "drop") if is_json else ("cut", "flip"))
    if how == "cut" or not data:
        return data[: choose.randrange(len(data) + 1)]
    if how == "flip":
        bits = bytearray(data)
        for _ in range(choose.choice((1, 1, 2, 8))):
            bits[choose.randrange(len(bits))] ^= 1 << choose.randrange(8)
        return bytes(bits)
    text = data.decode()
    pattern = r"-?\d+(\.\d+)?" if how == "number" else r'"[^"]*":|,|\[[^\[\]]*\]'
    places = list(re.finditer(pattern, text))
    if not places:
        return data
    place = choose.choice(places)
    value = choose.choice((*NUMBERS, str(choose.randrange(1000)))) if how == "number" else ""
    return (text[: place.start()] + value + text[place.end() :]).encode()


def outcomes(runner: Path, bundle: Path, photo: Path, count: int, seed: int = 0) -> Iterator[str]:
    """What a runner does with each of many damaged bundles: `people`, an error, or a crash."""
    choose = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        whole, broken = place / "whole", place / "broken"
        shutil.copytree(bundle, whole)
        environment = os.environ | idle(whole, place)
        for tool in ("ASAN_OPTIONS", "UBSAN_OPTIONS"):
            environment[tool] = f"exitcode={CRASH}:allocator_may_return_null=1"
        names = sorted(path.name for path in whole.iterdir())
        for number in range(count):
            shutil.rmtree(broken, ignore_errors=True)
            shutil.copytree(whole, broken)
            name = choose.choice([*names, *(name for name in names if name.startswith("plan"))])
            path = broken / name
            data = damaged(path.read_bytes(), name.endswith(".json"), choose)
            path.write_bytes(data)
            # The dynamic linker believes what a library says.
            if number % 2 == 0 and not name.endswith(".so"):
                correct(broken)
            done = subprocess.run(
                [runner, broken, "--rgb", photo, "--json", "--threads", "2"],
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=120,
            )
            said = done.stderr.splitlines()
            if done.returncode == 0 and json.loads(done.stdout)[0]["skeleton"] is not None:
                yield "people"
            elif done.returncode in (1, 4) and len(said) == 1 and said[0].startswith("error: "):
                yield said[0].replace(str(place), "")
            else:
                yield f"CRASH {done.returncode}: {name} of mutation {number}: {done.stderr}"


if __name__ == "__main__":
    runner, bundle, photo, *count = sys.argv[1:]
    found = Counter(
        outcomes(
            Path(runner).resolve(), Path(bundle), Path(photo), int(count[0] if count else 1000)
        )
    )
    for text, times in found.most_common():
        sys.stdout.write(f"{times:5d}  {text}\n")
    sys.exit(any(text.startswith("CRASH") for text in found))
