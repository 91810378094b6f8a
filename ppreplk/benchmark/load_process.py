"""Time and memory that a program takes to load and run once, in a process that does nothing else.

python -m ppreplk.benchmark.load_process CONTESTANT FOLDER SHAPE THREADS, for :mod:`ppreplk.benchmark.networks`.
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
from .networks import load

# Imported before the clock starts, as Paddle is with this package.
MODULES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino", "OpenVINO bf16": "openvino"}


def memory(field: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process, its resident size now or at most so far, in bytes (Linux)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) * 1024 if found else 0


def forget_peak() -> None:
    """Let ``VmHWM`` start again from the present size (Linux); where that is not allowed, it stays."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def main(name: str, folder: str, shape: str, threads: str) -> None:
    use_vector_units()
    images = np.zeros(json.loads(shape), np.float32)
    if name in MODULES:
        importlib.import_module(MODULES[name])
    forget_peak()  # that of the imports
    before, start = memory("VmRSS"), time.perf_counter()
    load(name, Path(folder), images, int(threads))()
    print(json.dumps([time.perf_counter() - start, memory("VmHWM") - before]))


if __name__ == "__main__":
    main(*sys.argv[1:])
