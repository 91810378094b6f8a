"""A whole network in inference form, ours and in other frameworks."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ..deploy.lowering import CHANNELS_LAST, NATIVE, lower
from ..deploy.onnx_file import BATCH, onnx_network
from ..deploy.program_file import save_network
from ..deploy.programs import BF16, FP32, PROGRAMS, Program, program_files
from ..models import build_model, find_model, graph_of
from ..nn import fold
from ..ops import onednn
from ..utils.device import set_threads, use_vector_units
from ..utils.errors import UserError
from ..utils.optional import import_problem
from ..utils.tables import Table
from . import peers
from .contestants import build_contestants, usable_implementations
from .timing import PAUSE, take_turns

logger = logging.getLogger(__name__)

COLUMNS = ["input", "batch", "threads", "what", "minimum ms", "median ms", "times OpenVINO's", "difference"]
LOADING = ["load s", "memory MB"]
ONNX = "network.onnx"
CPU = "cpu"  # the implementation, and the folder of the program that uses it
# What can be loaded: the folder of a Paddle program or the file of another, and the precision to compute in.
LOADABLE = {
    "Paddle Inference, native": (NATIVE, FP32),
    "Paddle Inference, native bf16": (NATIVE, BF16),
    "Paddle Inference, cpu": (CPU, FP32),
    "Paddle Inference, channels_last": (CHANNELS_LAST, FP32),
    "Paddle Inference, channels_last bf16": (CHANNELS_LAST, BF16),
    "ONNX Runtime": (ONNX, FP32),
    "OpenVINO": (ONNX, FP32),
    "OpenVINO bf16": (ONNX, BF16),
}
# {folder of the programs to save: arguments of :func:`ppreplk.deploy.lowering.lower`}
FORMS: dict[str, dict[str, Any]] = {
    NATIVE: {},
    CPU: {"depthwise": CPU},
    CHANNELS_LAST: {"runtime": CHANNELS_LAST, "precisions": (FP32, BF16)},
}
OPENVINO_PRECISIONS = {FP32: "f32", BF16: "bf16"}
PEERS = {FP32: "OpenVINO", BF16: "OpenVINO bf16"}  # {precision: with what the others are compared}
SLOW = ("Paddle, eager, native", "Paddle Inference, native bf16", "torch")  # several times the others' time


def measure_network(
    name: str, sizes: Sequence[int], batches: Sequence[int], threads: Sequence[int], rounds: int, native: bool
) -> Table:
    """Milliseconds per batch of a network in inference form, with random weights, statistics and images.

    For every input size, batch and number of threads, all contestants take turns in this process. The column
    ``difference`` compares each with the train form, relative to its largest logit. ``load s`` and ``memory MB`` are
    measured in a process of its own: the seconds it takes to load the network from files and run it once, and the
    memory that this adds at its peak. Imports do not count.

    Args:
        name: of a network of ours.
        sizes: heights and widths of the images.
        batches: numbers of images at once.
        threads: numbers of math threads.
        rounds: turns of each contestant.
        native: also measure what is in :data:`SLOW`.

    Raises:
        UserError: an unknown network, or one without a graph.
    """
    use_vector_units()
    paddle.seed(0)
    model = build_measured(name)
    randomise_statistics(model)
    model.eval()
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            _save(model, size, Path(folder))
            for batch in batches:
                images = np.random.default_rng(batch).standard_normal((batch, 3, size, size), np.float32)
                for count in threads:
                    rows += _turns(model, images, count, rounds, Path(folder), native)
    return Table(f"{name}, inference, {rounds} rounds", COLUMNS + LOADING, rows)


def build_measured(name: str, **kwargs: Any) -> nn.Layer:
    """A network that the other frameworks can compute too.

    Raises:
        UserError: an unknown network, or one without a graph.
    """
    if find_model(name).architecture.graph is None:
        message = f"{name} has no graph, from which the networks of other frameworks are made; choose another --name"
        raise UserError(message, code="benchmark.no-graph")
    return build_model(name, **kwargs)


def randomise_statistics(model: nn.Layer) -> None:
    """Give every BN statistics, scales and shifts such as a trained network might have."""
    rng = np.random.default_rng(0)
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            for parameter in (layer.weight, layer._variance):
                parameter.set_value(rng.uniform(0.5, 1.5, parameter.shape).astype("float32"))
            for parameter in (layer.bias, layer._mean):
                parameter.set_value(rng.normal(0, 0.3, parameter.shape).astype("float32"))


def _save(model: nn.Layer, size: int, folder: Path) -> None:
    """Write the programs and the ONNX file for images of this size. What cannot be made here is logged."""
    for directory, arguments in FORMS.items():
        try:
            forms = lower(model, **arguments)
        except UserError as error:
            logger.info("without %s: %s", directory, error)
            continue
        for precision, form in forms.items():
            save_network(form, [3, size, size], folder / directory / PROGRAMS[precision])
    problem = import_problem("onnx")
    if problem is None:
        (folder / ONNX).write_bytes(onnx_network(graph_of(fold(model)), (BATCH, 3, size, size)))
    else:
        logger.info("without ONNX files: %s", problem)


def _turns(
    model: nn.Layer, images: np.ndarray, threads: int, rounds: int, folder: Path, native: bool
) -> list[list[str]]:
    set_threads(threads)
    contestants = _inference(model, images, threads, folder, native)
    expected = _eager(model, paddle.to_tensor(images))
    scale = np.abs(expected).max()
    differences = {name: np.abs(run() - expected).max() / scale for name, run in contestants.items()}
    times = take_turns(contestants, rounds, calls=3, pause=PAUSE)
    rows = []
    for name, (minimum, median) in times.items():
        peer = times.get(PEERS[_precision(name)])
        row = [f"{images.shape[2]}x{images.shape[3]}", str(len(images)), str(threads), _label(name, contestants[name])]
        row += [f"{minimum * 1e3:.1f}", f"{median * 1e3:.1f}", f"{median / peer.median:.2f}" if peer else "-"]
        rows.append([*row, f"{differences[name]:.1e}", *_loading(name, images.shape, threads, folder)])
    return rows


def _inference(
    model: nn.Layer, images: np.ndarray, threads: int, folder: Path, native: bool
) -> dict[str, Callable[[], np.ndarray]]:
    builders: dict[str, Callable] = {
        f"Paddle, eager, {impl}": partial(_eager_form, model, impl, images) for impl in usable_implementations()
    }
    folded = fold(model)
    builders["torch"] = partial(peers.torch_network, folded, images, threads, channels_last=False)
    builders["torch channels-last"] = partial(peers.torch_network, folded, images, threads, channels_last=True)
    for name, (file, _) in LOADABLE.items():
        if (folder / file).exists():
            builders[name] = partial(load, name, folder, images, threads)
    return build_contestants({name: build for name, build in builders.items() if native or name not in SLOW})


def _precision(name: str) -> str:
    return LOADABLE[name][1] if name in LOADABLE else FP32


def _label(name: str, contestant: Callable) -> str:
    """A contestant's name in the table, which says so if it computes in float32 although asked for bfloat16."""
    if _precision(name) == FP32:
        return name
    bfloat16 = contestant.bfloat16 if isinstance(contestant, peers.Session) else onednn.has_bfloat16()
    return name if bfloat16 else f"{name} (in float32)"


def load(name: str, folder: Path, images: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    """Load one of :data:`LOADABLE` from ``folder``, ready to run on ``images``."""
    file, precision = LOADABLE[name]
    if (file, precision) == (NATIVE, BF16):
        return peers.paddle_bfloat16_session(*program_files(folder / file), images, threads)
    if file != ONNX:
        return partial(Program(folder / file, threads=threads, precision=precision), images)
    if name == "ONNX Runtime":
        return peers.onnxruntime_session(folder / file, images, threads)
    return peers.openvino_session(folder / file, images, threads, OPENVINO_PRECISIONS[precision])


def _loading(name: str, shape: Sequence[int], threads: int, folder: Path) -> list[str]:
    """The cells ``load s`` and ``memory MB``, see :func:`measure_network`; dashes for what has no files."""
    if name not in LOADABLE:
        return ["-", "-"]
    command = [sys.executable, "-W", "ignore", "-m", "ppreplk.benchmark.load_process"]
    command += [name, str(folder), json.dumps(list(shape)), str(threads)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        logger.info("%s: not loaded in a process of its own: %s", name, reason)
        return ["-", "-"]
    seconds, peak = json.loads(process.stdout.splitlines()[-1])
    return [f"{seconds:.2f}", f"{peak / 1e6:.0f}"]


@paddle.no_grad()
def _eager(model: nn.Layer, images: paddle.Tensor) -> np.ndarray:
    return model(images).numpy()


def _eager_form(model: nn.Layer, impl: str, images: np.ndarray) -> Callable[[], np.ndarray]:
    """The form that is saved as a program, run in eager mode."""
    form = lower(model, depthwise=impl)[FP32]
    return partial(_eager, form, paddle.to_tensor(images))
