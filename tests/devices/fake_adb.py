"""adb for tests: phones that are folders of this machine, and run its programs.

FAKE_ADB is a folder: what the phone has at /data/local/tmp, and `log`, every call. FAKE_PHONES is
JSON: the state of each phone. Calls with FAKE_FAILS in them fail with FAKE_SAYS; with FAKE_GONE
the phone is gone from then on.
"""

import json
import os
import platform
import shutil
import sys
from pathlib import Path

home = Path(os.environ["FAKE_ADB"])
phones = json.loads(os.environ["FAKE_PHONES"])
if (home / "gone").exists():
    phones = {}
words = sys.argv[1:]
with (home / "log").open("a") as log:
    print(*words, file=log)

if words == ["devices"]:
    listed = [f"{phone}\t{state}\n" for phone, state in phones.items()]
    sys.stdout.write("".join(["List of devices attached\n", *listed]))
    sys.exit()

assert words[0] == "-s"
serial, command, *arguments = words[1:]
if serial not in phones:
    sys.exit(f"error: device '{serial}' not found")
failing = os.environ.get("FAKE_FAILS")
if failing and failing in " ".join(words):
    if os.environ.get("FAKE_GONE"):
        (home / "gone").touch()
    sys.exit(os.environ["FAKE_SAYS"])
if command == "get-state":
    sys.stdout.write(f"{phones[serial]}\n")
elif command == "push":
    *files, place = (word.replace("/data/local/tmp", str(home)) for word in arguments)
    for file in files:
        shutil.copy(file, place)
elif command == "shell":
    line = arguments[-1].replace("/data/local/tmp", str(home))
    usual = {"x86_64": "x86_64", "aarch64": "arm64-v8a"}[platform.machine()]
    abi = os.environ.get("FAKE_ABI", usual)
    os.execvp("sh", ["sh", "-c", f"getprop() {{ echo {abi}; }}; {line}"])
else:
    sys.exit(f"the fake adb has no {command}")
