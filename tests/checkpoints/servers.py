"""A web server on loopback that misbehaves as real ones do, and published files on it."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STALL = 3.0  # seconds that a slow answer takes to go on


class Server(ThreadingHTTPServer):
    """Serves ``files``, {path: content}. ``cuts`` is how many answers still end in the middle.

    What comes before the name in a path says how: ``/cut/NAME``, ``/plain/NAME`` (no ranges, no version),
    ``/stall/NAME``, ``/redirect/NAME``, ``/loop``, ``/busy/NAME`` (503 the first time), ``/page/NAME``,
    ``/other/NAME`` (ranges of something else), ``/long/NAME`` (a length that is not kept), ``/unsized/NAME``.
    ``/away/NAME`` leads to a file of this machine.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.cuts = files, 1
        self.asked: list[tuple[str, str]] = []  # path and range of every request
        self.version = '"1"'
        self.delay = 0.0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range", "")))
        how, _, name = self.path.lstrip("/").partition("/")
        if not name or self.path.lstrip("/") in self.server.files:
            how, name = "", self.path.lstrip("/")
        content = self.server.files.get(name)
        if how == "loop":
            return self._moved("/loop/x")
        if content is None:
            return self.send_error(404)
        if how == "redirect":
            return self._moved(f"/{name}")
        if how == "away":
            return self._moved("file:///etc/hostname")
        if how == "busy" and len(self.server.asked) == 1:
            return self.send_error(503)
        time.sleep(self.server.delay)
        self._answer(how, content)

    def _moved(self, place: str) -> None:
        self.send_response(302)
        self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, how: str, content: bytes) -> None:
        start = self._start(how, len(content))
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", "text/html" if how == "page" else "application/octet-stream")
        if start:
            begin = 0 if how == "other" else start
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        if how not in ("plain", "cutplain"):
            self.send_header("ETag", self.server.version)
        if how != "unsized":
            self.send_header("Content-Length", str(len(content) - start + (100 if how == "long" else 0)))
        self.end_headers()
        part = content[start:]
        if how in ("cut", "cutplain", "other") and self.server.cuts > 0:
            self.server.cuts -= 1
            part = part[: len(part) // 2]
        try:
            if how == "stall":
                self.wfile.write(part[: len(part) // 2])
                self.wfile.flush()
                time.sleep(STALL)
                return
            self.wfile.write(part)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _start(self, how: str, size: int) -> int:
        asked = self.headers.get("Range", "")
        same = self.headers.get("If-Range", self.server.version) == self.server.version
        if how in ("plain", "cutplain") or not asked or not same:
            return 0
        return int(asked.removeprefix("bytes=").rstrip("-"))


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    server = Server(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def entry(file: str, content: bytes, address: str | None, **changes: object) -> dict:
    """A published file of RepLKNet13T."""
    return {
        "name": "replknet13t-tiny-1-here",
        "variant": "RepLKNet13T",
        "weights": "tiny-1",
        "source": "here",
        "task": "classification",
        "licence": "MIT",
        "page": "https://example.org/weights",
        "file": file,
        "address": address,
        "sha256": hashlib.sha256(content).hexdigest()[:8],
        "classes": 1000,
        **changes,
    }


def write_manifest(path: Path, *entries: dict) -> Path:
    path.write_text(json.dumps({"files": list(entries)}))
    return path
