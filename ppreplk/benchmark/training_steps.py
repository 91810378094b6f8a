"""A training step of a whole network, ours and in PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import numpy as np
import paddle
from paddle import nn

from ..deploy.lowering import NATIVE
from ..models import find_model
from ..nn import set_implementation
from ..utils.device import set_threads, use_vector_units
from ..utils.tables import Table
from . import peers
from .contestants import build_contestants, usable_implementations
from .networks import build_measured
from .timing import PAUSE, take_turns

DROP_PATH = 0.5  # of RepLKNet's ImageNet-1K recipe


def measure_training(name: str, size: int, batch: int, threads: int, rounds: int, native: bool) -> Table:
    """Milliseconds per training step in float32 on random images: forward, backward and AdamW.

    Drop path is on in networks that have it.

    Args:
        name: of a network of ours.
        size: height and width of the images.
        batch: images in a step.
        threads: math threads.
        rounds: turns of each contestant.
        native: also measure Paddle's own depthwise operator, which takes very long.

    Raises:
        UserError: an unknown network, or one without a graph.
    """
    use_vector_units()
    set_threads(threads)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 3, size, size), np.float32)
    labels = rng.integers(0, 1000, batch)
    builders: dict[str, Callable] = {
        f"Paddle, {impl}": partial(_training_step, name, impl, images, labels)
        for impl in usable_implementations()
        if impl != NATIVE or native
    }
    step = partial(peers.torch_training_step, _build(name), images, labels, threads)
    builders["torch"] = partial(step, channels_last=False)
    builders["torch channels-last"] = partial(step, channels_last=True)
    times = take_turns(build_contestants(builders), rounds, pause=PAUSE)
    rows = [
        [contestant, f"{minimum * 1e3:.0f}", f"{median * 1e3:.0f}"] for contestant, (minimum, median) in times.items()
    ]
    title = f"{name}, one training step, {size}x{size}, batch {batch}, float32, {threads} threads, {rounds} rounds"
    return Table(title, ["what", "minimum ms", "median ms"], rows)


def _build(name: str) -> nn.Layer:
    has_drop_path = "drop_path_rate" in inspect.signature(find_model(name).architecture.network).parameters
    return build_measured(name, **({"drop_path_rate": DROP_PATH} if has_drop_path else {}))


def _training_step(name: str, impl: str, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    paddle.seed(0)
    model = _build(name)
    set_implementation(model, impl)
    parameters = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=parameters, weight_decay=0.05)
    tensor, target = paddle.to_tensor(images), paddle.to_tensor(labels)

    def step() -> None:
        nn.functional.cross_entropy(model(tensor), target).backward()
        optimizer.step()
        optimizer.clear_grad()

    return step
