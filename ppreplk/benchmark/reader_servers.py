"""Servers as readers: PaddleX's and ours, started on a free port of this machine, asked over HTTP, and ended."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.errors import UserError
from .environments import Environment
from .reader_process import Predict, in_order

LOOPBACK = "127.0.0.1"
START_SECONDS = 240.0
ANSWER_SECONDS = 60.0
STOP_SECONDS = 30.0
PPREPLK = "import sys; from ppreplk.cli import main; sys.exit(main())"


@contextlib.contextmanager
def paddlex_server(environment: Environment, pipeline: Path, images: list[str], classes: int) -> Iterator[Predict]:
    """PaddleX's server with a pipeline of its own format, as a function of the number of an image."""
    given = ["-m", "ppreplk.plugins.paddlex", "--serve", "--pipeline", pipeline, "--device", "cpu", "--port"]

    with _serving(environment, lambda port: [*given, port]) as connection:

        def predict(number: int) -> np.ndarray:
            encoded = base64.b64encode(Path(images[number]).read_bytes()).decode("ascii")
            body = json.dumps({"image": encoded, "topk": classes}).encode("ascii")
            answer = _ask(connection, "/image-classification", body, "application/json")
            found = answer["result"]["categories"]
            return in_order([each["id"] for each in found], [each["score"] for each in found], classes)

        yield predict


@contextlib.contextmanager
def our_server(
    environment: Environment, folder: Path, images: list[str], classes: int, threads: int
) -> Iterator[Predict]:
    """``ppreplk serve`` with a program, as a function of the number of an image."""
    given = ["-c", PPREPLK, "serve", "--model-dir", folder, "--threads", threads, "--port"]

    with _serving(environment, lambda port: [*given, port]) as connection:

        def predict(number: int) -> np.ndarray:
            body = Path(images[number]).read_bytes()
            answer = _ask(connection, f"/predict?topk={classes}", body, "application/octet-stream")
            (found,) = answer["predictions"]
            return in_order(found["class_ids"], found["scores"], classes)

        yield predict


@contextlib.contextmanager
def _serving(
    environment: Environment, arguments: Callable[[int], list[object]]
) -> Iterator[http.client.HTTPConnection]:
    """A connection to a server that runs as long as the block.

    Raises:
        UserError: it does not start.
    """
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    log = environment.folder / f"server-{port}.log"
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            environment.command(*arguments(port)),
            env=environment.variables(),
            cwd=environment.folder,
            stdout=file,
            stderr=file,
        )
    try:
        _wait(process, port, log)
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=ANSWER_SECONDS)
        with contextlib.closing(connection):
            yield connection
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen, port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, port)) == 0:
                return
        time.sleep(0.2)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it says nothing"]
    raise UserError(f"the server does not start ({lines[-1]})", code="benchmark.reader-failed")


def _ask(connection: http.client.HTTPConnection, path: str, body: bytes, kind: str) -> dict[str, Any]:
    connection.request("POST", path, body, {"Content-Type": kind})
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise UserError(
            f"{path} answered {response.status}: {content[:200].decode('utf-8', 'replace')}",
            code="benchmark.reader-failed",
        )
    return json.loads(content)
