"""One contestant in a process of its own. It loads nothing but what this contestant needs.

:mod:`ppreplk.benchmark.turns` runs ``python -m ppreplk.benchmark.turn_process``, writes one request a line to its
standard input and reads one answer a line from its standard output, both in JSON. ``build`` makes the contestant and
runs it once; ``turn`` runs it, first to warm up and then on the clock.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def memory(field: str) -> int:
    """Resident size of this process in bytes: ``VmRSS`` is the present one, ``VmHWM`` the largest so far (Linux)."""
    with contextlib.suppress(OSError):
        found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
        return int(found[1]) * 1024 if found else 0
    return 0


def forget_peak() -> None:
    """Let ``VmHWM`` start again from the present size, where that is allowed (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class Contestant:
    """What answers the requests. Every ``build`` replaces the contestant of the one before."""

    def __init__(self) -> None:
        self.run: Callable[[], Any] = lambda: None

    def build(self, builder: str, arguments: dict[str, Any], packages: list[str], output: str | None) -> dict[str, Any]:
        """Make the contestant and run it once.

        Args:
            builder: ``"module:function"``; the function returns a contestant, which is called without arguments.
            arguments: of the function.
            packages: imported before the clock starts.
            output: ``.npy`` file for what the contestant returns.

        Returns:
            The seconds this took, the bytes it added at its peak, and whether the contestant computes in bfloat16.
        """
        self.run = lambda: None
        for package in packages:
            importlib.import_module(package)
        module, function = builder.split(":")
        make = getattr(importlib.import_module(module), function)
        forget_peak()  # of the imports
        before, start = memory("VmRSS"), time.perf_counter()
        self.run = make(**arguments)
        result = self.run()
        seconds, peak = time.perf_counter() - start, memory("VmHWM") - before
        if output is not None:
            np.save(output, result)
        return {"seconds": seconds, "bytes": peak, "bfloat16": getattr(self.run, "bfloat16", False)}

    def turn(self, calls: int) -> dict[str, Any]:
        """The seconds of each call."""
        self.run()
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            self.run()
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what frameworks print is no answer
    contestant = Contestant()
    requests: dict[str, Callable[..., dict[str, Any]]] = {"build": contestant.build, "turn": contestant.turn}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = requests[request.pop("do")](**request)
        except (Exception, SystemExit) as error:  # a framework may raise anything, and the others go on
            reason = " ".join(str(error).split())
            is_plain = reason and (isinstance(error, ImportError) or hasattr(error, "exit_code"))
            answer = {"error": reason if is_plain else f"{type(error).__name__}: {reason}".removesuffix(": ")}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
