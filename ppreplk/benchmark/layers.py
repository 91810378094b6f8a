"""One depthwise layer: every implementation of ours, and other frameworks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import paddle

from ..ops import IMPLEMENTATIONS, depthwise_conv2d
from ..ops import cpu as compiled
from ..utils.device import set_threads, use_vector_units
from ..utils.errors import UserError
from ..utils.tables import Table
from . import peers
from .timing import PAUSE, Times, take_turns

logger = logging.getLogger(__name__)

SHAPES = ((128, 56, 31), (256, 28, 29), (512, 14, 27), (1024, 7, 13))  # channels, side, kernel: RepLKNet-31B at 224
COLUMNS = ["C, H=W, K", "batch", "what", "minimum ms", "median ms", "times as fast as native", "and as the best peer"]
TORCH = {
    "torch": partial(peers.torch_conv, channels_last=False),
    "torch channels-last": partial(peers.torch_conv, channels_last=True),
}


def measure_layers(
    shapes: Sequence[tuple[int, int, int]], batches: Sequence[int], threads: int, backward: bool, rounds: int
) -> Table:
    """Milliseconds of depthwise layers of (channels, side, kernel), float32, forward or backward.

    The backward pass is that of both operands, without the forward pass.
    """
    use_vector_units()
    set_threads(threads)
    rows = []
    for batch in batches:
        for shape in shapes:
            times = time_layer(*shape, batch, threads, backward, rounds)
            rows += _rows(f"{shape[0]}, {shape[1]}, {shape[2]}", batch, times)
    what = "backward (both gradients)" if backward else "forward"
    return Table(f"One depthwise layer, {what}, float32, {threads} threads, {rounds} rounds", COLUMNS, rows)


def time_layer(
    channels: int, side: int, kernel: int, batch: int, threads: int, backward: bool, rounds: int
) -> dict[str, Times]:
    """{contestant: times}: first ours, then the installed others."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, channels, side, side), np.float32)
    weight = rng.standard_normal((channels, 1, kernel, kernel), np.float32)
    contestants = _ours(x, weight, backward)
    contestants.update(_others(x, weight, threads, backward))
    return take_turns(contestants, rounds, calls=5, pause=PAUSE)


def usable() -> list[str]:
    """Implementations that run here; why the others do not is logged."""
    names = []
    for name, implementation in IMPLEMENTATIONS.items():
        try:
            implementation.check_available()
            names.append(name)
        except UserError as error:
            logger.info("%s", error)
    return names


def _ours(x: np.ndarray, weight: np.ndarray, backward: bool) -> dict[str, Callable]:
    contestants = {impl: (_backward if backward else _forward)(x, weight, impl) for impl in usable()}
    if "compiled" in contestants and not backward:
        image, kernels = paddle.to_tensor(x), paddle.to_tensor(weight)
        packed = compiled.pack(kernels, *x.shape[2:])
        contestants["compiled, packed"] = lambda: compiled.packed_conv2d(image, kernels, packed, None, relu=False)
    return contestants


def _forward(x: np.ndarray, weight: np.ndarray, impl: str) -> Callable:
    tensors = paddle.to_tensor(x), paddle.to_tensor(weight)
    depthwise_conv2d(*tensors, impl=impl)
    return lambda: depthwise_conv2d(*tensors, impl=impl)


def _backward(x: np.ndarray, weight: np.ndarray, impl: str) -> Callable:
    tensors = [paddle.to_tensor(value, stop_gradient=False) for value in (x, weight)]
    y = depthwise_conv2d(*tensors, impl=impl)
    gradient = paddle.ones_like(y)
    return lambda: paddle.grad(y, tensors, gradient, retain_graph=True)


def _others(x: np.ndarray, weight: np.ndarray, threads: int, backward: bool) -> dict[str, Callable]:
    builders: dict[str, Callable[[], Callable]] = {
        name: lambda build=build: build(x, weight, threads)[1 if backward else 0] for name, build in TORCH.items()
    }
    if not backward:
        builders["ONNX Runtime"] = lambda: peers.onnxruntime_session(peers.onnx_conv(x, weight), x, threads)
        builders["OpenVINO"] = lambda: peers.openvino_session(peers.onnx_conv(x, weight), x, threads)
    return installed(builders)


def installed(builders: dict[str, Callable[[], Callable]]) -> dict[str, Callable]:
    """The contestants whose framework is there; the others are logged."""
    contestants = {}
    for name, build in builders.items():
        try:
            contestants[name] = build()
        except ImportError as error:
            logger.info("without %s: %s", name, error)
    return contestants


def _rows(shape: str, batch: int, times: dict[str, Times]) -> list[list[str]]:
    others = [value.median for name, value in times.items() if name.partition(",")[0] not in IMPLEMENTATIONS]
    native = times["native"].median
    return [
        [
            shape,
            str(batch),
            name,
            f"{minimum * 1e3:.3f}",
            f"{median * 1e3:.3f}",
            f"{native / median:.1f}",
            f"{min(others) / median:.2f}" if others else "-",
        ]
        for name, (minimum, median) in times.items()
    ]
