"""One depthwise layer, with every implementation of ours and in other frameworks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import paddle

from ..ops import IMPLEMENTATIONS, cpu, depthwise_conv2d
from ..utils.device import set_threads, use_vector_units
from ..utils.tables import Table
from . import peers
from .contestants import build_contestants, usable_implementations
from .timing import PAUSE, Times, take_turns

# (channels, side of the map, kernel size) of RepLKNet-31B's stages on images of 224x224
SHAPES = ((128, 56, 31), (256, 28, 29), (512, 14, 27), (1024, 7, 13))
COLUMNS = ["C, H=W, K", "batch", "what", "minimum ms", "median ms", "times as fast as native", "and as the best peer"]


def measure_layers(
    shapes: Sequence[tuple[int, int, int]], batches: Sequence[int], threads: int, backward: bool, rounds: int
) -> Table:
    """Milliseconds of depthwise layers in float32, forward or backward.

    Args:
        shapes: of the layers: channels, side of the map, kernel size.
        batches: numbers of images at once.
        threads: math threads.
        backward: measure the gradients of both operands, without the forward pass, instead of the output.
        rounds: turns of each contestant.
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
    """{contestant: times} for one layer, ours first."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, channels, side, side), np.float32)
    weight = rng.standard_normal((channels, 1, kernel, kernel), np.float32)
    contestants = _ours(x, weight, backward)
    contestants.update(_others(x, weight, threads, backward))
    return take_turns(contestants, rounds, calls=5, pause=PAUSE)


def _ours(x: np.ndarray, weight: np.ndarray, backward: bool) -> dict[str, Callable]:
    contestants = {impl: (_backward if backward else _forward)(x, weight, impl) for impl in usable_implementations()}
    if "cpu" in contestants and not backward:
        image, kernels = paddle.to_tensor(x), paddle.to_tensor(weight)
        packed = cpu.pack(kernels, *x.shape[2:])
        contestants["cpu, packed"] = lambda: cpu.packed_conv2d(image, kernels, packed, None, relu=False)
    return contestants


def _forward(x: np.ndarray, weight: np.ndarray, impl: str) -> Callable:
    image, kernels = paddle.to_tensor(x), paddle.to_tensor(weight)
    depthwise_conv2d(image, kernels, impl=impl)
    return lambda: depthwise_conv2d(image, kernels, impl=impl)


def _backward(x: np.ndarray, weight: np.ndarray, impl: str) -> Callable:
    image, kernels = (paddle.to_tensor(value, stop_gradient=False) for value in (x, weight))
    y = depthwise_conv2d(image, kernels, impl=impl)
    gradient = paddle.ones_like(y)
    return lambda: paddle.grad(y, [image, kernels], gradient, retain_graph=True)


def _others(x: np.ndarray, weight: np.ndarray, threads: int, backward: bool) -> dict[str, Callable]:
    builders: dict[str, Callable[[], Callable]] = {
        "torch": partial(_torch, x, weight, threads, False, backward),
        "torch channels-last": partial(_torch, x, weight, threads, True, backward),
    }
    if not backward:
        builders["ONNX Runtime"] = lambda: peers.onnxruntime_session(peers.onnx_conv(x, weight), x, threads)
        builders["OpenVINO"] = lambda: peers.openvino_session(peers.onnx_conv(x, weight), x, threads)
    return build_contestants(builders)


def _torch(x: np.ndarray, weight: np.ndarray, threads: int, channels_last: bool, backward: bool) -> Callable:
    return peers.torch_conv(x, weight, threads, channels_last)[1 if backward else 0]


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
