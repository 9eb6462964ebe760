"""Phones at this computer, through adb, the Android Debug Bridge."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO

from graphopt.errors import GraphoptError, InputError, Unsupported

HOME = "/data/local/tmp/graphopt"
"""Where our files lie on a phone: the folder is the user's `shell`, apps do not see it."""

PATIENCE = 60.0
"""Seconds that a phone may take to answer a short command."""

STATES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "unauthorized": (
            "has not allowed this computer to debug it",
            "unlock it and answer the question on its screen",
        ),
        "offline": ("does not answer", "unplug it and plug it in again, or: adb reconnect"),
        "no permissions": (
            "may not be used by this user",
            "Linux needs udev rules for it: apt install android-sdk-platform-tools-common",
        ),
    }
)
"""Why a phone that adb lists cannot be used, and what to do."""


@dataclass(frozen=True)
class Phone:
    """A phone that adb can talk to."""

    serial: str

    def ask(self, command: str, what: str) -> str:
        """What a shell command on the phone says.

        Args:
            command: for the phone's shell.
            what: is being done, for errors: `reading …`.

        Raises:
            GraphoptError: it failed.
        """
        try:
            done = _adb("-s", self.serial, "shell", command, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise Unsupported(
                f"the phone {self.serial} does not answer ({what})",
                hint="unplug it and plug it in again, or restart it",
            ) from None
        if done.returncode:
            raise self.failure(what, done.stderr + done.stdout)
        return done.stdout

    def push(self, files: Sequence[Path], place: str, what: str) -> None:
        """Copy files to a path on the phone, or into a folder there (`/` at its end).

        Raises:
            GraphoptError: it failed.
        """
        done = _adb("-s", self.serial, "push", *map(str, files), place)
        if done.returncode:
            raise self.failure(what, done.stderr + done.stdout)

    def start(self, command: str, log: IO[str]) -> subprocess.Popen[str]:
        """Begin a program on the phone, whose stdin and stdout are pipes; it ends with its stdin.

        Args:
            command: for the phone's shell.
            log: where its stderr goes.
        """
        return subprocess.Popen(
            [_program(), "-s", self.serial, "shell", "-T", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )

    def failure(self, what: str, said: str) -> GraphoptError:
        """The sentence for something that failed, by what adb said."""
        if "No space left on device" in said:
            return InputError(
                f"the phone {self.serial} is full ({what})",
                hint=f"make room; what graphopt keeps there: adb shell rm -r {HOME}",
            )
        words = [line.strip() for line in said.splitlines() if line.strip()] or ["no reason given"]
        if not self.is_there():
            return Unsupported(
                f"the phone {self.serial} went away ({what}): {words[-1]}",
                hint="plug it in again and repeat the command; what is whole there is kept",
            )
        return Unsupported(f"{what} failed on the phone {self.serial}: {words[-1]}")

    def is_there(self) -> bool:
        """Whether adb can talk to it."""
        return _adb("-s", self.serial, "get-state").stdout.strip() == "device"

    def keep(self, key: str, files: Mapping[Path, str], what: str) -> str:
        """A folder on the phone that holds files; they are pushed unless it is there and whole.

        Args:
            key: names the folder: the same for the same files only.
            files: their SHA-256.
            what: is being done, for errors.

        Raises:
            GraphoptError: they cannot be pushed; then the folder is not there.
        """
        folder, fresh = f"{HOME}/{key}", f"{HOME}/{key}.fresh"
        names = shlex.join(path.name for path in files)
        look = f"cd {folder} 2>/dev/null && sha256sum {names} 2>/dev/null || true"
        whole = [word for path, digest in files.items() for word in (digest, path.name)]
        if self.ask(look, what).split() == whole:
            return folder
        self.ask(f"rm -rf {folder} {fresh} && mkdir -p {fresh}", what)
        try:
            self.push(list(files), f"{fresh}/", what)
            self.ask(f"chmod 755 {fresh}/* && mv {fresh} {folder}", what)
        except GraphoptError:
            # Of no use to anybody; a phone that went away keeps it until the next time.
            _adb("-s", self.serial, "shell", f"rm -rf {fresh}")
            raise
        return folder


def find_phone(serial: str = "") -> Phone:
    """The phone of that serial number, or the only one (`ANDROID_SERIAL` chooses, as for adb).

    Raises:
        Unsupported: there is no adb, no such phone, or it cannot be used yet.
        InputError: there are several.
    """
    seen = phones()
    serial = serial or os.environ.get("ANDROID_SERIAL", "")
    if serial and serial not in seen:
        others = f"it sees {', '.join(seen)}" if seen else "it sees none; is its cable plugged in?"
        raise Unsupported(f"adb sees no phone {serial}", hint=others)
    if not seen:
        raise Unsupported(
            "adb sees no phone",
            hint="plug one in and allow USB debugging in its developer options; `adb devices` "
            "lists it then",
        )
    ready = [name for name, state in seen.items() if state == "device"]
    if not serial and len(ready) > 1:
        raise InputError(
            f"there are several phones: {', '.join(ready)}", hint=f"--device adb:{ready[0]}"
        )
    chosen = serial or next(iter(ready or seen))
    state = seen[chosen]
    if state != "device":
        known = next((words for name, words in STATES.items() if state.startswith(name)), None)
        complaint, hint = known or (f"is in the state {state!r}", "start Android on it")
        raise Unsupported(f"the phone {chosen} {complaint}", hint=hint)
    return Phone(chosen)


def phones() -> dict[str, str]:
    """The state of every phone that adb sees, by its serial number; `device` is ready.

    Raises:
        Unsupported: there is no adb, or it does not work.
    """
    try:
        done = _adb("devices", timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Unsupported("adb does not answer", hint="adb kill-server, then again") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
        raise Unsupported(f"adb does not work: {last[0]}", hint="adb kill-server, then again")
    return dict(re.findall(r"^(\S+)\t(.+)$", done.stdout, re.MULTILINE))


def _program() -> str:
    program = shutil.which("adb")
    if program is None:
        raise Unsupported(
            "adb is not installed, and phones are reached through it",
            hint="apt install adb, or put the platform-tools of Android's SDK on PATH",
        )
    return program


def _adb(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_program(), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
