"""Measure the time and memory that a program takes to load and run once, in a process that does nothing else.

:mod:`ppreplk.benchmark.networks` runs ``python -m ppreplk.benchmark.load_process CONTESTANT FOLDER SHAPE THREADS``.
It prints the seconds and the bytes as a JSON list.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import sys
import time
from pathlib import Path

import numpy as np

from ..utils.device import use_vector_units
from .contestants import needed_packages
from .networks import load


def memory(field: str) -> int:
    """Resident size of this process in bytes: ``VmRSS`` is the present one, ``VmHWM`` the largest so far (Linux)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) * 1024 if found else 0


def forget_peak() -> None:
    """Let ``VmHWM`` start again from the present size, where that is allowed (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def main(name: str, folder: str, shape: str, threads: str) -> None:
    use_vector_units()
    images = np.zeros(json.loads(shape), np.float32)
    for framework in needed_packages(name)[:1]:  # before the clock starts, as Paddle is
        importlib.import_module(framework)
    forget_peak()  # of the imports
    before, start = memory("VmRSS"), time.perf_counter()
    load(name, Path(folder), images, int(threads))()
    print(json.dumps([time.perf_counter() - start, memory("VmHWM") - before]))


if __name__ == "__main__":
    main(*sys.argv[1:])
