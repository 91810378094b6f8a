"""The export to ONNX: ``inference.onnx``, written of a network's graph, or by paddle2onnx where there is no graph."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path

from paddle import nn

from ..config import Config
from ..models.registry import architecture_of, graph_of
from ..nn import fold
from ..utils.cores import default_threads
from ..utils.errors import UserError
from . import legacy_file
from .onnx_file import BATCH, HEIGHT, WIDTH, onnx_network
from .other_runtimes import ONNXRUNTIME, onnxruntime_runtime, openvino_runtime, problem_of_python
from .programs import FP32, LEGACY_FILE, ONNX_FILE, WEIGHTS
from .verify import Runtime

KEY = "Global.export_format=onnx"
# It installs packages while it converts, unless optimize_tool is "None"; unsupported operators abort its process.
PADDLE2ONNX = """
import sys
import paddle2onnx
program, weights, file, opset = sys.argv[1:]
paddle2onnx.export(program, weights, file, opset_version=int(opset), optimize_tool="None", enable_onnx_checker=True)
import onnx
assert onnx.load(file).graph.initializer, "it wrote no weights"
"""


def check(config: Config, precisions: Sequence[str]) -> None:
    """Check that the packages are there that write and run such a file.

    Raises:
        UserError: one is missing.
    """
    missing = [name for name in ("onnx", ONNXRUNTIME) if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing, to write the file and to verify it; pip install onnx onnxruntime",
            code="deploy.missing-package",
            where=KEY,
        )


def write(network: nn.Layer, config: Config, folder: Path, precisions: Sequence[str]) -> None:
    """Write the file.

    Raises:
        UserError: the network has no graph, and paddle2onnx is not there or cannot convert it.
    """
    architecture = architecture_of(network)
    if architecture is None or architecture.graph is None:
        _convert(network, config, folder)
        return
    settings = config.Global
    channels, height, width = settings.image_shape
    sides = (HEIGHT, WIDTH) if settings.onnx_dynamic_size else (height, width)
    graph = graph_of(fold(network))
    shape = (BATCH, channels, *sides)
    (folder / ONNX_FILE).write_bytes(onnx_network(graph, shape, settings.onnx_opset, config.Arch.infer_add_softmax))


def _convert(network: nn.Layer, config: Config, folder: Path) -> None:
    """Convert the program of a foreign network, in a process of its own."""
    if importlib.util.find_spec("paddle2onnx") is None:
        raise UserError(
            f"{type(network).__name__} is not one of our networks; converting it needs paddle2onnx: pip install "
            "paddle2onnx, or leave this format out",
            code="deploy.missing-package",
            where=KEY,
        )
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        legacy_file.write(network, config, Path(aside), [FP32])
        files = [str(Path(aside) / name) for name in (LEGACY_FILE, WEIGHTS)]
        problem = problem_of_python("-c", PADDLE2ONNX, *files, folder / ONNX_FILE, config.Global.onnx_opset)
    if problem is not None:
        raise UserError(
            f"paddle2onnx cannot convert {type(network).__name__} ({problem}); leave this format out",
            code="deploy.no-format",
            where=KEY,
        )


def runtimes(folder: Path, config: Config, precisions: Sequence[str]) -> list[Runtime]:
    """ONNX Runtime, and OpenVINO if it is installed."""
    file, threads = folder / ONNX_FILE, config.Global.num_threads or default_threads()
    return [*onnxruntime_runtime(file, threads), *openvino_runtime("onnx", file, threads)]
