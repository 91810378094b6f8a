"""Exported files in ONNX Runtime and OpenVINO, each in a process of its own.

In one process with Paddle their libraries of math threads would disturb each other. Images and outputs travel as
``.npy`` files.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..utils.errors import UserError
from .verify import Runtime

ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"
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
        problem = problem_of_python("-m", __name__, package, file, given, received, threads)
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


def _onnxruntime(file: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _openvino(file: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    import openvino

    # bfloat16 would be its choice where the processor multiplies it
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(file, "CPU", settings)
    return lambda images: model(images)[0]


LOADERS = {ONNXRUNTIME: _onnxruntime, OPENVINO: _openvino}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("package", choices=LOADERS)
    for argument in ("file", "images", "outputs"):
        parser.add_argument(argument)
    parser.add_argument("threads", type=int)
    arguments = parser.parse_args()
    run = LOADERS[arguments.package](arguments.file, arguments.threads)
    np.save(arguments.outputs, run(np.load(arguments.images)))
