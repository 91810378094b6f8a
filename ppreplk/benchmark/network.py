"""A whole network: inference and training steps, ours and in other frameworks."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from ..errors import UserError
from ..export import save_network
from ..layers import set_implementation
from ..models import build_model
from ..ops import IMPLEMENTATIONS
from ..predict import PROGRAM, Predictor
from ..reparam import fold, fuse_relu
from ..runtime import set_threads, use_vector_units
from . import peers
from .layer import installed
from .tables import Table
from .timing import PAUSE, take_turns

logger = logging.getLogger(__name__)

PRECISIONS = {"OpenVINO": "f32", "OpenVINO bf16": "bf16"}


def measure_network(name: str, size: int, batch: int, threads: int, rounds: int) -> Table:
    """Milliseconds per batch of a network in inference form, random weights and images, float32 unless it says so.

    All contestants run the same folded network; the last column is how far their outputs are from the first's.

    Raises:
        UserError: unknown network.
    """
    use_vector_units()
    set_threads(threads)
    paddle.seed(0)
    images = np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        contestants = _inference(build_model(name), images, threads, Path(folder))
        outputs = {contestant: run() for contestant, run in contestants.items()}
        times = take_turns(contestants, rounds, calls=3, pause=PAUSE)
    reference = next(iter(outputs.values()))
    rows = []
    for contestant, (minimum, median) in times.items():
        error = np.abs(outputs[contestant] - reference).max() / np.abs(reference).max()
        rows.append([contestant, f"{minimum * 1e3:.1f}", f"{median * 1e3:.1f}", f"{error:.1e}"])
    title = f"{name}, inference, {size}x{size}, batch {batch}, {threads} threads, {rounds} rounds"
    return Table(title, ["what", "minimum ms", "median ms", "difference from the first"], rows)


def _inference(model: nn.Layer, images: np.ndarray, threads: int, folder: Path) -> dict[str, Callable]:
    model.eval()
    folded = fold(model)
    tensor = paddle.to_tensor(images)
    contestants: dict[str, Callable[[], np.ndarray]] = {}
    for impl in _usable():
        ours = fold(model)
        set_implementation(ours, impl)
        fuse_relu(ours)
        contestants[f"Paddle, eager, {impl}"] = partial(_eager, ours, tensor)
        if impl != "fft":
            save_network(ours, images.shape[1:], folder / impl / PROGRAM)
            contestants[f"Paddle Inference, {impl}"] = partial(Predictor(folder / impl, threads=threads), images)
    onnx = partial(peers.onnx_network, folded, images.shape)
    builders: dict[str, Callable] = {
        "torch": lambda: peers.torch_network(folded, images, threads, channels_last=False),
        "torch channels-last": lambda: peers.torch_network(folded, images, threads, channels_last=True),
        "ONNX Runtime": lambda: peers.onnxruntime_session(onnx(), images, threads),
    }
    for peer, precision in PRECISIONS.items():
        builders[peer] = lambda precision=precision: peers.openvino_session(onnx(), images, threads, precision)
    return {**contestants, **installed(builders)}


@paddle.no_grad()
def _eager(model: nn.Layer, images: paddle.Tensor) -> np.ndarray:
    return model(images).numpy()


def measure_training(name: str, size: int, batch: int, threads: int, rounds: int, native: bool) -> Table:
    """Milliseconds per training step in float32: forward, backward, AdamW, with drop path; random images.

    Args:
        native: also measure Paddle's own depthwise operator, which takes very long.

    Raises:
        UserError: unknown network.
    """
    use_vector_units()
    set_threads(threads)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 3, size, size), np.float32)
    labels = rng.integers(0, 1000, batch)
    contestants: dict[str, Callable] = {}
    for impl in _usable():
        if impl != "native" or native:
            contestants[f"Paddle, {impl}"] = _training_step(name, impl, images, labels)
    model = build_model(name, drop_path_rate=DROP_PATH)
    step = partial(peers.torch_training_step, model, images, labels, threads)
    contestants |= installed(
        {
            "torch": lambda: step(channels_last=False),
            "torch channels-last": lambda: step(channels_last=True),
        }
    )
    times = take_turns(contestants, rounds, pause=PAUSE)
    rows = [
        [contestant, f"{minimum * 1e3:.0f}", f"{median * 1e3:.0f}"] for contestant, (minimum, median) in times.items()
    ]
    title = f"{name}, one training step, {size}x{size}, batch {batch}, float32, {threads} threads, {rounds} rounds"
    return Table(title, ["what", "minimum ms", "median ms"], rows)


DROP_PATH = 0.5  # of the ImageNet-1K recipe


def _training_step(name: str, impl: str, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    paddle.seed(0)
    model = build_model(name, drop_path_rate=DROP_PATH, depthwise_impl=impl)
    parameters = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=parameters, weight_decay=0.05)
    tensor, target = paddle.to_tensor(images), paddle.to_tensor(labels)

    def step() -> None:
        nn.functional.cross_entropy(model(tensor), target).backward()
        optimizer.step()
        optimizer.clear_grad()

    return step


def _usable() -> list[str]:
    """Implementations that run here."""
    usable = []
    for name, implementation in IMPLEMENTATIONS.items():
        try:
            implementation.require()
            usable.append(name)
        except UserError as error:
            logger.info("%s", error)
    return usable
