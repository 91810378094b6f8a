"""Exported files in ONNX Runtime and OpenVINO, each in a process of its own.

In one process with Paddle their libraries of math threads would disturb each other. Images and outputs travel as
``.npy`` files, see :mod:`ppreplk.deploy.runtime_process`.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ..utils.errors import UserError
from . import runtime_process
from .runtime_process import ONNXRUNTIME, OPENVINO
from .verify import Runtime

NAMES = {ONNXRUNTIME: "ONNX Runtime", OPENVINO: "OpenVINO"}
SECONDS = 900  # for a conversion, or for the images of a verification


def onnxruntime_runtime(file: Path, threads: int) -> list[Runtime]:
    """ONNX Runtime, if it is installed."""
    return _runtime(ONNXRUNTIME, "onnx", file, threads)


def openvino_runtime(kind: str, file: Path, threads: int) -> list[Runtime]:
    """OpenVINO, if it is installed."""
    return _runtime(OPENVINO, kind, file, threads)


def _runtime(package: str, kind: str, file: Path, threads: int) -> list[Runtime]:
    if importlib.util.find_spec(package) is None:
        return []
    return [Runtime(f"{kind} in {NAMES[package]}", lambda images: run_elsewhere(package, file, images, threads))]


def run_elsewhere(package: str, file: Path, images: np.ndarray, threads: int) -> np.ndarray:
    """Outputs (N, class_num) of a file for images (N, C, H, W), computed by a package in another process.

    Raises:
        UserError: the package cannot run it.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, received = Path(folder) / "images.npy", Path(folder) / "outputs.npy"
        np.save(given, images)
        problem = problem_of_python("-m", runtime_process.__name__, package, file, given, received, threads)
        if problem is not None:
            raise UserError(f"{NAMES[package]} cannot run it ({problem})", code="deploy.bad-program", where=str(file))
        return np.load(received)


def problem_of_python(*arguments: object) -> str | None:
    """Run Python with these arguments in another process; why that failed, in a line, or None."""
    try:
        result = subprocess.run(
            [sys.executable, *map(str, arguments)], capture_output=True, text=True, errors="replace", timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no end after {SECONDS} seconds"
    if result.returncode == 0:
        return None
    return (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
