"""A process that dies, fails or stops ends the others, with the reason; process 0 alone writes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT
from test_killed import TESTS

from ppreplk.training import process_watch

GONE, LOST = "is gone without a word", process_watch.LOST


def run(project: Path, *faults: str) -> dict:
    """Train in two processes for each fault, see faulty_processes.py."""
    paths = os.pathsep.join([str(TESTS), str(TESTS / "training"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(TESTS / "training" / "faulty_processes.py"), str(project), *faults]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30 + 60 * len(faults))
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout.splitlines()[-1])
    assert not any(result["left"] for result in results.values()), results
    return results


def check(result: dict, codes: list[int], *lines: str) -> None:
    """Compare exit codes; and for each process what its one line of error says, where it has one."""
    assert result["codes"] == codes, result
    for text, line in zip(result["errors"], lines):
        errors = [each for each in text.splitlines() if each.startswith("error: ")]
        assert len(errors) == bool(line) and all(line in each for each in errors), (line, text)


def test_a_lost_process_ends_the_other_with_the_reason(colour_project):
    """Limits are shortened: see SHORT in faulty_processes.py."""
    faults = ("undisturbed", "other-folder", "other-weights", "killed-with-loaders", "first-killed", "stopped")
    results = run(colour_project, *faults, "exception", "other-list", "nan-loss")
    check(results["killed-with-loaders"], [LOST, -signal.SIGKILL], f"process 1 of 2 ({os.uname().nodename}) {GONE}", "")
    check(results["first-killed"], [-signal.SIGKILL, LOST], "", f"process 0 of 2 (127.0.0.1) {GONE}")
    check(results["stopped"], [LOST, LOST], "has been silent for 2 s", "process ")  # the second when it is let go on
    check(results["exception"], [LOST, 1], "has ended: ZeroDivisionError: no reason [training.lost-process]", "")
    assert "Traceback" in results["exception"]["errors"][1]
    check(
        results["other-list"], [2, 2], "has ended: DataLoader.Train.dataset: the data set is", "[data.missing-dataset]"
    )
    loss = "the loss of process 1 is not finite in iteration 1 of this epoch; its message says more"
    origin = "the loss is nan in epoch 1, iteration 1 (step 2); all layers' outputs are finite; images data/images/"
    check(results["nan-loss"], [2, 2], loss, origin)

    check(results["undisturbed"], [0, 0], "", "")
    assert "stopped after epoch 2: the best metric" in results["undisturbed"]["errors"][0]
    assert "WRITES" not in results["undisturbed"]["errors"][1]
    line = "go on from different checkpoints, process {} from {}; output_dir and the checkpoint must lie where all"
    seen = "output-undisturbed/latest, the end of epoch 2"
    check(results["other-folder"], [2, 2], line.format(0, seen), line.format(1, "the beginning"))
    check(results["other-weights"], [2, 2], line.format(0, seen), line.format(1, seen))


@pytest.mark.slow
def test_other_ways_to_fail(colour_project):
    """python -m pytest -m slow tests/training/test_process_faults.py (the last of them takes gloo's 30 s)"""
    faults = ("killed", "first-stopped", "runtime-error", "user-error", "sys-exit", "spoilt-weights", "endless-loop")
    results = run(colour_project, *faults, "endless-loop-in-batch")
    check(results["killed"], [LOST, -signal.SIGKILL], GONE, "")
    check(results["first-stopped"], [LOST, LOST], "process ", "has been silent for 2 s")
    check(results["runtime-error"], [LOST, 1], "has ended: RuntimeError: no reason", "")
    check(results["user-error"], [2, 2], "has ended: no reason [data.no-reason]", "no reason [data.no-reason]")
    check(results["sys-exit"], [LOST, 0], "has ended: sys.exit(0)", "")
    check(results["spoilt-weights"], [2, 2], "has ended: 1 weights or statistics", "1 weights or statistics")
    waiting = r"process 1 of 2 has kept the others waiting for 2 s; process 0 is at \w+.py, line \d+, process 1 is at"
    for text in results["endless-loop"]["errors"]:
        assert re.search(waiting, text), text
    assert results["endless-loop"]["codes"] == [LOST, LOST]
    text = "an exchange between processes has failed in C++; process 0 is at precision.py"
    check(results["endless-loop-in-batch"], [-signal.SIGABRT, LOST], text, text)


# --------------------------------------------------------------------------------------------------------
# Under the launcher


TRAINING = [
    *(str(ROOT / "tools" / "train.py"), "-c", "config.yaml", "-o", "Global.epochs=100000", "-o"),
    *("Global.checkpoints=auto", "-o", "Global.eval_during_train=False"),
    *("-o", "DataLoader.Train.sampler.batch_size=3"),
]
LAUNCHER = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]


class Launched:
    """A training under launchers of loopback, one for each node."""

    def __init__(self, project: Path, *nodes: list[str]):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.project, self.logs = project, [project / f"log{index}" for index in range(len(nodes))]
        self.saved = self.log().count("saved")
        self.launchers = [
            subprocess.Popen(
                [*LAUNCHER, "--log_dir", str(logs), *options, *TRAINING],
                cwd=project,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            for options, logs in zip(nodes, self.logs)
        ]

    def __enter__(self):
        deadline = time.monotonic() + 60
        while self.log().count("saved") == self.saved and time.monotonic() < deadline:
            time.sleep(0.2)
        self.workers = {int(rank): int(pid) for pid, rank in self._processes()}
        return self

    def __exit__(self, *_):
        for launcher in self.launchers:
            launcher.kill()
            launcher.wait()
        for pid in self.workers.values():
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)

    def _processes(self):
        for path in Path("/proc").glob("[0-9]*"):
            try:
                variables = (path / "environ").read_bytes().split(b"\0")
                folder = os.readlink(path / "cwd")
            except OSError:
                continue
            ranks = [each[18:] for each in variables if each.startswith(b"PADDLE_TRAINER_ID=")]
            if ranks and folder == str(self.project):
                yield path.name, ranks[0]

    def log(self) -> str:
        path = self.project / "output" / "train.log"
        return path.read_text() if path.exists() else ""

    def end(self, seconds: float) -> tuple[list[int], str]:
        """Exit codes of the launchers, and what all processes wrote; nothing may be left."""
        codes = [launcher.wait(seconds) for launcher in self.launchers]
        deadline = time.monotonic() + 10
        while (left := list(self._processes())) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left
        return codes, "".join(path.read_text() for logs in self.logs for path in sorted(logs.glob("workerlog.*")))


@pytest.mark.slow
@pytest.mark.parametrize("number, said", [(signal.SIGKILL, GONE), (signal.SIGSTOP, "has been silent for 25 s")])
def test_the_launcher_ends_within_a_minute(colour_project, number, said):
    with Launched(colour_project, []) as training:
        os.kill(training.workers[1], number)
        codes, text = training.end(60)
    assert codes[0] not in (0, 2) and said in text and "start again with Global.checkpoints=auto" in text


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_and_the_same_command_goes_on(colour_project):
    for _ in range(2):
        with Launched(colour_project, []) as training:
            training.launchers[0].terminate()
            codes, text = training.end(60)
        assert codes[0] != 0 and "stopped; go on with -o Global.checkpoints=output/" in text
        assert "error: " not in text and "Traceback" not in text
    assert training.log().count("resumed from output/") == 1


@pytest.mark.slow
def test_two_nodes(colour_project):
    """A worker of one node dies; the other node's launcher ends, too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [["--nnodes", "2", "--master", f"127.0.0.1:{port}", "--rank", str(rank)] for rank in range(2)]
    with Launched(colour_project, *nodes) as training:
        assert sorted(training.workers) == [0, 1, 2, 3]
        os.kill(training.workers[3], signal.SIGKILL)
        codes, text = training.end(60)
    assert all(code not in (0, 2) for code in codes) and text.count("error: process 3 of 4") >= 2
