"""A training that is killed again and again, by a process that has Paddle imported, so that a kill costs little.

    python killing.py FOLDER KILLS SEED

FOLDER holds the colour project. Every start is a fork of this process. It goes on with ``Global.checkpoints=auto`` and
is killed at a random time, or at a random access to a file of its output folder, which is inside the writing of a
checkpoint more often than not. Prints a JSON object of what was seen.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from runs import config

from ppreplk.training import recorder, train

ACCESSES = ("open", "os.rename", "os.remove")
WAYS = ("time", "access")
TRAINING = [
    *("Global.epochs=3", "Global.checkpoints=auto", "Global.update_freq=2", "Global.save_interval=1"),
    *("Global.keep_checkpoints=2", "Global.num_threads=1", "DataLoader.Train.sampler.batch_size=3"),
]


class Killer:
    """Starts trainings of one folder and kills them.

    Args:
        seed: of the moments, and of what may change from start to start without an effect on the result.
    """

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.sessions: list[int] = []

    def start(self, output: str, access: int = 0) -> int:
        """A training in a process and session of its own; it kills itself at the access of this number."""
        workers, interval = self.random.choice((0, 2)), self.random.choice((0, 1, 2))
        overrides = [
            f"Global.output_dir={output}",
            f"Global.save_step_interval={interval}",
            f"DataLoader.Train.loader.num_workers={workers}",
        ]
        child = os.fork()
        if child:
            self.sessions.append(child)
            return child
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            if access:
                sys.addaudithook(Counting(output, access))
            train(config(*TRAINING, *overrides, EMA={"decay": 0.9}))
            os._exit(0)
        except BaseException as error:
            Path("failed.txt").write_text(f"{type(error).__name__}: {error}")
            os._exit(1)

    def finish(self, output: str) -> float:
        """Let a training come to its end; the seconds it took."""
        begin = time.monotonic()
        _, status = os.waitpid(self.start(output), 0)
        assert status == 0, (status, Path("failed.txt").read_text())
        return time.monotonic() - begin

    def kill(self, output: str, way: str, seconds: float) -> bool:
        """Start a training and kill it; False if it came to its end before."""
        access = self.random.randrange(1, 90) if way == "access" else 0
        child = self.start(output, access)
        if way == "time":
            time.sleep(self.random.uniform(0.0, 0.7 * seconds))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL), (status, Path("failed.txt").read_text())
        return status != 0

    def left(self) -> list[int]:
        """Processes of these sessions that are still there after a while."""
        for _ in range(100):
            alive = [
                pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _session(pid) in self.sessions
            ]
            if not alive:
                break
            time.sleep(0.1)
        return alive


class Counting:
    """Kills this process at the access of number ``last`` to a file in ``folder``."""

    def __init__(self, folder: str, last: int):
        self.folder, self.last, self.count = folder, last, 0
        self.process = os.getpid()

    def __call__(self, event: str, arguments: tuple) -> None:
        if event in ACCESSES and os.getpid() == self.process and f"{self.folder}/" in str(arguments[0]):
            self.count += 1
            if self.count == self.last:
                os.kill(self.process, signal.SIGKILL)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def main(folder: str, kills: int, seed: int) -> None:
    os.chdir(folder)
    recorder.matplotlib_problem = lambda: "it would take every start half of its time"
    shared = set(os.listdir("/dev/shm"))
    killer = Killer(seed)
    seconds = killer.finish("whole")
    done, runs, seen = 0, [], {way: 0 for way in WAYS}
    aside = 0
    while done < kills:
        output = f"killed{len(runs)}"
        runs.append(output)
        ended = False
        while done < kills and not ended:
            way = WAYS[done % 2]
            ended = not killer.kill(output, way, seconds)
            if not ended:
                done += 1
                seen[way] += 1
                aside += bool(list(Path(output).glob("*.next")))
        killer.finish(output)
    print(
        json.dumps(
            {
                "runs": runs,
                "kills": seen,
                "while_writing": aside,
                "processes": killer.left(),
                "shared": [name for name in set(os.listdir("/dev/shm")) - shared if _is_ours(name, killer.sessions)],
            }
        )
    )


def _is_ours(name: str, pids: list[int]) -> bool:
    return any(str(pid) in name for pid in pids)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
