"""``ppreplk serve`` as a process: how it starts, stops, and what it survives."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import ROOT, assert_one_line_and_exit_2
from services import CHECKPOINT, PROGRAM, encoded, need_packages, picture, post, read_all

from ppreplk.cli import command_parser

need_packages()
import httpx  # noqa: E402 - after the check

COMMAND = [sys.executable, "-c", "import sys; from ppreplk.cli import main; sys.exit(main())", "serve"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **more}


def run(*arguments, **options) -> subprocess.CompletedProcess:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(), **options)


def wait_until(holds) -> None:
    deadline = time.monotonic() + 60
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert holds()


class Process:
    """A service in a process of its own."""

    def __init__(self, *arguments):
        command = [*COMMAND, "--port", "0", "--threads", "1", *map(str, arguments)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())
        self.lines: list[str] = []
        self.url = ""
        ready = threading.Event()

        def read() -> None:
            for line in self.process.stderr:
                self.lines.append(line.rstrip())
                if found := re.search(r"serving on (http\S+/),", line):
                    self.url = found[1]
                    ready.set()
            ready.set()

        self.reader = threading.Thread(target=read)
        self.reader.start()
        assert ready.wait(120) and self.url, self.lines

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.reader.join(10)
        return code

    def children(self) -> list[int]:
        found = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for each in found for pid in each.read_text().split()]

    def program(self) -> int:
        """The process that runs the program."""
        (found,) = [pid for pid in self.children() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return found

    def kill_program(self) -> None:
        """End it, all its threads and pipes too, so that the service could know."""
        process = Path(f"/proc/{self.program()}")
        os.kill(int(process.name), signal.SIGKILL)
        wait_until(lambda: "State:\tZ" in (process / "status").read_text() and len([*process.glob("task/*")]) == 1)


@contextlib.contextmanager
def started(*arguments):
    service = Process(*arguments)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.process.kill()
        service.process.wait(20)
        service.reader.join(10)
        service.process.stderr.close()


def assert_gone(pids: list[int]) -> None:
    """The processes have ended; nobody may have taken note of it yet."""
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/exe").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in pids)


def ask(service) -> httpx.Response:
    return httpx.post(f"{service.url}predict", json={"images": [encoded(picture())]}, timeout=60)


def test_it_says_where_it_listens_and_stops_when_it_is_told(predictor):
    with started("--model-dir", PROGRAM) as service:
        assert service.url.startswith("http://127.0.0.1:")
        shown = ask(service).json()["predictions"][0]
        assert shown["class_ids"] == predictor(picture())[0].class_ids
        info = httpx.get(f"{service.url}info").json()
        assert (info["model"], info["classes"], info["image_shape"]) == ("RepLKNet13T", 3, [3, 32, 32])
        assert info["preprocessing"][0].keys() == {"DecodeImage"}
        children = service.children()
        assert service.stop() == 128 + signal.SIGTERM
        assert service.lines[-1] == "ended by SIGTERM"
    assert not any("Traceback" in line for line in service.lines)
    assert_gone(children)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals(number):
    with started("--model-dir", PROGRAM) as service:
        assert service.stop(number) == 128 + number
        assert service.lines[-1] == {signal.SIGINT: "stopped", signal.SIGHUP: "ended by SIGHUP"}[number]


def test_what_has_begun_is_finished():
    with started("--model-dir", PROGRAM) as service:
        port = int(service.url.rstrip("/").rpartition(":")[2])
        request = post(picture(), "image/png")
        idle = socket.create_connection(("127.0.0.1", port), 30)
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            connection.sendall(request[:-10])
            time.sleep(0.5)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            with pytest.raises(OSError):  # nobody else is let in
                socket.create_connection(("127.0.0.1", port), 5).close()
            connection.sendall(request[-10:])
            answer = read_all(connection)
        idle.close()
        assert answer.startswith(b"HTTP/1.1 200 ") and b"class_ids" in answer
        assert service.process.wait(30) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_second_signal_does_not_wait():
    with started("--model-dir", PROGRAM) as service:
        port = int(service.url.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            connection.sendall(post(picture(), "image/png")[:-10])
            time.sleep(0.5)
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            start = time.monotonic()
            assert service.stop() == 128 + signal.SIGTERM
            assert time.monotonic() - start < 15


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the process in /proc")
def test_the_program_may_die(tmp_path):
    shutil.copytree(PROGRAM, tmp_path / "model")
    with started("--model-dir", tmp_path / "model") as service:
        answers: list[httpx.Response] = []
        os.kill(service.program(), signal.SIGSTOP)
        asking = threading.Thread(target=lambda: answers.append(ask(service)))
        asking.start()
        wait_until(lambda: "ppreplk_requests_in_flight 1" in httpx.get(f"{service.url}metrics").text)
        time.sleep(0.5)  # the image is decoded
        os.kill(service.program(), signal.SIGKILL)
        asking.join(60)
        assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "serve.program-ended")
        assert ask(service).status_code == 200
        service.kill_program()  # while it has nothing to do: nobody takes note
        assert ask(service).status_code == 200

        (tmp_path / "model").rename(tmp_path / "away")
        service.kill_program()
        response = ask(service)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "serve.program-ended")
        assert str(tmp_path) not in response.text
        assert httpx.get(f"{service.url}health").status_code == 503
        (tmp_path / "away").rename(tmp_path / "model")
        assert ask(service).status_code == 200
        assert httpx.get(f"{service.url}health").status_code == 200
        assert service.stop() == 128 + signal.SIGTERM
    assert not any("Traceback" in line for line in service.lines)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the process in /proc")
def test_a_program_that_hangs_does_not_keep_the_service_from_stopping():
    with started("--model-dir", PROGRAM, "--timeout", 1) as service:
        program = service.program()
        os.kill(program, signal.SIGSTOP)
        assert ask(service).json()["error"]["code"] == "serve.no-answer"
        start = time.monotonic()
        assert service.stop() == 128 + signal.SIGTERM
        assert time.monotonic() - start < 20
    assert_gone([program])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="stops a process")
def test_a_program_that_hangs_is_started_again():
    import numpy as np

    from ppreplk.serve.limits import Refused
    from ppreplk.serve.program_process import ProgramProcess, ProgramSettings

    image = np.zeros((1, 3, 32, 32), np.float32)
    with contextlib.closing(ProgramProcess(ProgramSettings(str(PROGRAM), threads=1), patience=2)) as program:
        expected = program(image)
        os.kill(program.pid, signal.SIGSTOP)
        with pytest.raises(Refused):
            program(image)
        assert (program(image) == expected).all() and program.can_run
    with pytest.raises(Refused):
        program(image)


def test_another_spelling_of_loopback_is_as_careful():
    with started("--model-dir", PROGRAM, "--host", "127.1") as service:
        assert httpx.get(f"{service.url}info", headers={"host": "evil.example"}).status_code == 421
        assert httpx.get(f"{service.url}info", headers={"host": "127.1"}).status_code == 200
        service.stop()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the process in /proc")
def test_when_the_service_is_killed_its_program_goes_too():
    with started("--model-dir", PROGRAM) as service:
        children = service.children()
        assert service.stop(signal.SIGKILL) == -signal.SIGKILL
        assert_gone(children)


def test_bad_input_is_one_line(tmp_path):
    assert_one_line_and_exit_2(run("--model-dir", tmp_path), str(tmp_path), code="deploy.no-program")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = run("--model-dir", PROGRAM, "--port", port)
    assert_one_line_and_exit_2(process, f"port {port}", code="serve.address")


@pytest.mark.parametrize(
    "option, value",
    [
        *(("port", "65536"), ("port", "x"), ("max-batch", "0"), ("timeout", "0"), ("timeout", "1e308")),
        *(("max-wait-ms", "nan"), ("max-wait-ms", "1e300"), ("max-pixels", "200000000")),
    ],
)
def test_bad_arguments(capsys, option, value):
    with pytest.raises(SystemExit) as ended:
        command_parser().parse_args(["serve", "--model-dir", str(PROGRAM), f"--{option}", value])
    assert ended.value.code == 2
    assert f"--{option}: must be" in capsys.readouterr().err


def test_a_missing_package_is_named(tmp_path):
    (tmp_path / "starlette.py").write_text("raise ModuleNotFoundError(\"No module named 'starlette'\")")
    command = [*COMMAND, "--model-dir", str(PROGRAM)]
    paths = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert_one_line_and_exit_2(process, 'pip install "ppreplk[serve]"', code="serve.missing-package")


def test_weights_that_are_not_those_of_the_program(tmp_path):
    import paddle
    from helpers import colour_config

    import ppreplk

    arch = {key: value for key, value in colour_config()["Arch"].items() if key not in ("name", "drop_path_rate")}
    paddle.save(ppreplk.build_model("RepLKNet13T", **arch).state_dict(), str(tmp_path / "other.pdparams"))
    process = run("--model-dir", PROGRAM, "--weights", tmp_path / "other.pdparams", "--threads", 1)
    assert_one_line_and_exit_2(process, "other.pdparams", code="serve.other-weights")
    process = run("--model-dir", PROGRAM, "--weights", tmp_path / "none.pdparams", "--threads", 1)
    assert_one_line_and_exit_2(process, "none.pdparams")


def test_the_passport_is_shown_and_its_weights_are_used(tmp_path):
    from ppreplk.serve.server import Settings, making_service

    shutil.copytree(PROGRAM, tmp_path / "model")
    for weights, field in ((CHECKPOINT, True), (tmp_path / "gone.pdparams", False), (tmp_path / "bad.pdparams", False)):
        (tmp_path / "bad.pdparams").write_bytes(b"no weights")
        passport = {"weights": str(weights), "classes": 3}
        (tmp_path / "model" / "export.json").write_text(json.dumps(passport))
        with making_service(Settings(str(tmp_path / "model"), threads=1)) as service:
            assert service.info["field"] is field
            assert service.info["passport"] == {"weights": weights.name, "classes": 3}
