"""`graphopt run` on stdin, the web, cameras and videos."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphopt.errors import InputError, UsageError
from graphopt.pose import images, sources
from graphopt.pose.sources import fetched

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.onnx"
PHOTO = DEMO.with_suffix(".png")


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    script = Path(sysconfig.get_path("scripts"), "graphopt")
    command = [str(script), "run", str(DEMO), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, text=False, **options)


class Server(BaseHTTPRequestHandler):
    """A photo, and all that may go wrong with it."""

    def do_GET(self) -> None:
        photo = PHOTO.read_bytes()
        path = self.path.partition("?")[0]
        if path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/photos/demo.png?size=large")
            self.end_headers()
        elif path in ("/away", "/ftp"):
            self.send_response(302)
            self.send_header("Location", f"{'ftp' if path == '/ftp' else 'file'}:///etc/passwd")
            self.end_headers()
        elif path == "/gone.jpg":
            self.send_error(404)
        elif path == "/large.jpg":
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 40))
            self.end_headers()
        elif path == "/endless.jpg":
            self.send_response(200)
            self.end_headers()
            for _ in range(64):
                self.wfile.write(bytes(1 << 16))
        elif path == "/silent.jpg":
            self.send_response(200)
            self.end_headers()
            time.sleep(3)
        else:
            self.send_response(200)
            cut = path == "/cut.png"
            self.send_header("Content-Length", str(len(photo)))
            self.end_headers()
            self.wfile.write(b"no photo" if path == "/text.jpg" else photo[: 99 if cut else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


@pytest.fixture(scope="module")
def expected() -> list[object]:
    (entry,) = json.loads(run(PHOTO, "--json").stdout)
    people: list[object] = entry["people"]
    assert people
    return people


def test_a_photo_on_stdin(expected: list[object], tmp_path: Path) -> None:
    done = run("-", "--json", "-", "-o", tmp_path / "out.png", stdin=PHOTO.open("rb"))
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)
    assert (entry["image"], entry["people"]) == ("stdin", expected)
    assert (tmp_path / "out.png").is_file()


@pytest.mark.parametrize(
    ("words", "data", "code", "complaint"),
    [
        (("-",), b"", 1, "stdin is empty"),
        (("-",), b"no photo", 1, "stdin is no photo that can be read"),
        (("-", "-"), b"", 2, "stdin (-) can be read once"),
    ],
)
def test_what_is_wrong_with_stdin_is_a_sentence(
    words: tuple[str, ...], data: bytes, code: int, complaint: str
) -> None:
    done = run(*words, input=data)
    assert done.returncode == code
    assert complaint in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert b"/tmp" not in done.stderr


def test_a_terminal_is_no_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, terminal = os.openpty()
    monkeypatch.setattr(sys, "stdin", os.fdopen(terminal))
    with pytest.raises(UsageError, match="no photo on stdin"), fetched(["-"]):
        pass
    os.close(leader)


def test_photos_from_the_web(expected: list[object], server: str, tmp_path: Path) -> None:
    done = run(f"{server}/a.png", f"{server}/moved", PHOTO, "--json", "-", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    entries = json.loads(done.stdout)
    assert [e["image"] for e in entries] == [f"{server}/a.png", f"{server}/moved", str(PHOTO)]
    assert all(entry["people"] == expected for entry in entries)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "moved.png", "demo.png"}


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        ("/gone.jpg", "cannot be fetched: 404 Not Found"),
        ("/large.jpg", "is larger than 1 MB"),
        ("/endless.jpg", "is larger than 1 MB"),
        ("/cut.png", "ended after 99 of "),
        ("/away", "cannot be fetched: .*file:///etc/passwd.* is not allowed"),
        ("/ftp", "cannot be fetched: unknown url type: ftp"),
        ("/silent.jpg", "cannot be fetched: timed out"),
    ],
)
def test_what_cannot_be_fetched_is_a_sentence(
    server: str, place: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MOST", 1 << 20)
    monkeypatch.setattr(sources, "SILENCE", 1.0)
    with pytest.raises(InputError, match=complaint) as caught, fetched([server + place]):
        pass
    assert caught.value.message.startswith(server + place)


def test_a_slow_server_is_not_waited_for(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PATIENCE", -1.0)
    with pytest.raises(InputError, match="takes longer than"), fetched([server]):
        pass


def test_no_server_and_no_url_are_sentences(server: str) -> None:
    for url, complaint in (
        ("http://127.0.0.1:1/a.jpg", "Connection refused"),
        ("http://[/a.jpg", "http://[/a.jpg cannot be fetched: "),
        (f"{server}/text.jpg", f"{server}/text.jpg "),
    ):
        done = run(url)
        assert done.returncode == 1
        assert complaint in done.stderr.decode()
        assert b"Traceback" not in done.stderr
        assert b"/tmp" not in done.stderr


def test_names_from_the_web_stay_in_their_folder(server: str) -> None:
    with fetched([f"{server}/a/%2E%2E", f"{server}/..%2F..%2Fx.png", f"{server}/"]) as found:
        names = [path.name for path in found.paths]
        assert names == ["photo", "x.png", "photo"]
        assert all(path.is_file() for path in found.paths)
    assert not any(path.exists() for path in found.paths)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    frame = np.asarray(Image.open(PHOTO).convert("RGB"))
    path = tmp_path / "clip.mp4"
    with imageio.get_writer(path, "ffmpeg", fps=10, macro_block_size=2) as writer:
        for _ in range(4):
            writer.append_data(frame)
    return path


def test_a_video_ends_with_one_line(clip: Path) -> None:
    done = run(clip, "--json", clip.with_suffix(".json"))
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.decode().splitlines()
    assert line.startswith(f"{clip}: 4 frames, ")
    assert line.endswith(" frames/s")
    people = len(json.loads(clip.with_suffix(".json").read_text())[0]["people"])
    assert f"{people} {'person' if people == 1 else 'people'} in each" in line
    each = run(clip, "--each", "--track").stdout.decode().splitlines()
    assert [text.partition(": ")[0] for text in each] == [f"{clip}#{n}" for n in range(4)] + [
        str(clip)
    ]
    assert f"{people} followed" in each[-1]


class Reader:
    """A camera as imageio shows it: frames without end; interrupts the process after some."""

    def __init__(self, frames: int) -> None:
        self.left, self.closed = frames, False

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
            yield np.zeros((8, 8, 3), np.uint8)

    def get_meta_data(self) -> dict[str, float]:
        return {"fps": 30.0, "duration": float("inf")}

    def close(self) -> None:
        self.closed = True


def test_a_camera_is_watched_until_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(5)
    asked = []

    class Imageio:
        @staticmethod
        def get_reader(name: str, mode: str) -> Reader:
            asked.append((name, mode))
            return reader

    (tmp_path / "video2").touch()
    monkeypatch.setattr(images, "CAMERAS", tmp_path)
    monkeypatch.setattr(images, "_imageio", lambda: Imageio)
    before = signal.getsignal(signal.SIGINT)
    with images.read_video(Path("camera:2")) as video:
        assert len(list(video.frames)) == 5
        assert (video.count, video.fps) == (0, 30.0)
    assert asked == [("<video2>", "ffmpeg")]
    assert reader.closed
    assert signal.getsignal(signal.SIGINT) is before


def test_a_missing_camera_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "video3").touch()
    monkeypatch.setattr(images, "CAMERAS", tmp_path)
    with (
        pytest.raises(InputError, match=r"there is no camera:0 .*\n.*cameras here: camera:3"),
        images.read_video(Path("camera:0")),
    ):
        pass
    done = run("camera:77")
    assert done.returncode == 1
    assert b"there is no camera:77 (/dev/video77)" in done.stderr
