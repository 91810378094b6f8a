"""Contestants in processes of their own that take turns.

What one framework leaves in a process, such as thread pools, allocators and settings, does not touch the next. When the
speed of the machine drifts, it does so for all alike.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Optional

from ..utils.errors import UserError

# Math libraries keep their idle threads spinning for up to 0.2 s, which would slow the next contestant down.
PAUSE = 0.25
SECONDS = 900.0  # for one answer


@dataclass(frozen=True)
class Entry:
    """A contestant, before it is built.

    Args:
        name: in the table.
        builder: ``"module:function"``, see :meth:`ppreplk.benchmark.turn_process.Contestant.build`.
        arguments: of the function; what JSON can hold.
        packages: that it imports before the clock starts.
        output: ``.npy`` file for what it returns the first time.
    """

    name: str
    builder: str
    arguments: dict[str, Any]
    packages: Sequence[str] = ()
    output: Optional[str] = None


@dataclass
class Taken:
    """What was measured of one contestant.

    Args:
        load_seconds, load_bytes: of building it and running it once; imports do not count.
        bfloat16: whether it computes in bfloat16, if it was asked to.
        output: the file with what it returned.
        turns: seconds of each call, for each round.
    """

    load_seconds: float
    load_bytes: int
    bfloat16: bool
    output: Optional[str] = None
    turns: list[list[float]] = field(default_factory=list)

    @property
    def minimum(self) -> float:
        return min(min(turn) for turn in self.turns)

    @property
    def median(self) -> float:
        return statistics.median(second for turn in self.turns for second in turn)

    def times(self, peer: Optional[Taken]) -> Optional[float]:
        """How long this takes, the peer being 1: the median of the rounds. None without a peer."""
        if peer is None:
            return None
        rounds = zip(self.turns, peer.turns)
        return statistics.median(statistics.median(ours) / statistics.median(theirs) for ours, theirs in rounds)


class Process:
    """A running :mod:`ppreplk.benchmark.turn_process`."""

    def __init__(self) -> None:
        self._errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "ppreplk.benchmark.turn_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
        )

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            UserError: the contestant failed, ended or did not answer; says why in one line.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        timer = threading.Timer(SECONDS, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            in_time = timer.is_alive()
            timer.cancel()
        answer = json.loads(line) if line else {}
        problem = answer.get("error")
        if not line:
            problem = self._last_words() if in_time else f"no answer after {SECONDS:g} s"
        if problem:
            raise UserError(problem, code="benchmark.contestant-failed")
        return answer

    def _last_words(self) -> str:
        """Why the process ended."""
        status = self._process.wait()
        if status < 0:
            return f"its process was ended by {signal.Signals(-status).name}"
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1] if lines else f"its process ended with exit status {status}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # a request that was never read
                    pass


class Contest:
    """Contestants of several tables, each in its process, which stays for the next :meth:`measure`.

    A contestant that cannot be imported or built, or whose process ends, becomes a line in ``notes``. The others go on.

    Args:
        notes: for the lines; several contests may share them.
    """

    def __init__(self, notes: Optional[list[str]] = None) -> None:
        self.notes = [] if notes is None else notes
        self._processes: dict[str, Process] = {}

    def __enter__(self) -> Contest:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        while self._processes:
            self._processes.popitem()[1].close()

    def measure(
        self, entries: Sequence[Entry], rounds: int, calls: int, label: str = "", pause: float = PAUSE
    ) -> dict[str, Taken]:
        """Build the contestants, then time them in rounds. In each round everyone has a turn: a pause, a call to warm
        up, then timed calls.

        Args:
            entries: the contestants.
            rounds: number of rounds.
            calls: timed calls in a turn.
            label: what is measured, for the notes.
            pause: seconds before a turn.

        Returns:
            {name: what was measured} of those that went through all rounds.
        """
        taken: dict[str, Taken] = {}
        for entry in entries:
            request: dict[str, Any] = {"do": "build", "builder": entry.builder, "arguments": entry.arguments}
            request |= {"packages": list(entry.packages), "output": entry.output}
            answer = self._ask(entry.name, label, request)
            if answer is not None:
                taken[entry.name] = Taken(answer["seconds"], answer["bytes"], answer["bfloat16"], entry.output)
        for _ in range(rounds):
            for name in list(taken):
                time.sleep(pause)
                answer = self._ask(name, label, {"do": "turn", "calls": calls})
                if answer is None:
                    del taken[name]
                else:
                    taken[name].turns.append(answer["seconds"])
        return taken

    def _ask(self, name: str, label: str, request: dict[str, Any]) -> Optional[dict[str, Any]]:
        process = self._processes.get(name)
        if process is None or not process.runs:
            if process is not None:
                process.close()
            process = self._processes[name] = Process()
        try:
            return process.ask(**request)
        except UserError as error:
            self.note(f"without {name}: {error}", label)
            return None

    def note(self, text: str, label: str = "") -> None:
        """Add a line, once, whatever it is of."""
        if not any(note.startswith(text) for note in self.notes):
            self.notes.append(f"{text} ({label})" if label else text)
