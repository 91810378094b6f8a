"""What the tests of the service share: one that runs in a thread, images, requests as bytes."""

import base64
import contextlib
import io
import socket
import struct
import threading
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

PROGRAM = ROOT / "tests" / "earlier" / "program"  # of 0.1.0, for 32x32 pixels, three colours
CHECKPOINT = ROOT / "tests" / "earlier" / "checkpoint" / "latest.pdparams"


def need_packages() -> None:
    """Skip where what the service or its tests need is not installed."""
    for name in ("starlette", "uvicorn", "python_multipart", "httpx"):
        pytest.importorskip(name)


def picture(seed: int = 0, size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    """A picture of one colour with noise, as a file."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.integers(0, 256, 3) + rng.integers(-30, 30, (size[1], size[0], 3)), 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of one colour, of a few hundred kilobytes whatever its size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))  # never reached
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Running:
    """A service that answers on loopback."""

    def __init__(self, service, url: str):
        self.service = service
        self.url = url
        self.port = int(url.rstrip("/").rpartition(":")[2])

    def send(self, data: bytes, seconds: float = 10.0) -> bytes:
        """Bytes over a socket of their own; all that comes back until the other side closes, or for so long."""
        with socket.create_connection(("127.0.0.1", self.port), seconds) as connection:
            try:
                connection.sendall(data)
            except OSError:
                pass
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(OSError):
        while piece := connection.recv(65536):
            received += piece
    return received


def post(body: bytes, content_type: str, path: str = "/predict", headers: str = "") -> bytes:
    """A request that closes its connection."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}"
    return f"{head}Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@contextlib.contextmanager
def running(model, limits, info=None, **options) -> Iterator[Running]:
    """A service of ``model`` in a thread of this process."""
    from ppreplk.serve.app import Service
    from ppreplk.serve.server import listen, make_server

    service = Service(model, {"model": "three colours", **(info or {})}, limits, **options)
    with listen("127.0.0.1", 0) as listening:
        server = make_server(service, listening, limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Running(service, server.url)
        finally:
            server.should_exit = True
            thread.join()
            service.close()
