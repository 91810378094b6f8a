"""Depthwise convolution with large kernels: one function, a table of implementations, one rule.

``native`` is Paddle's own operator: the reference every other implementation is tested against, and slow in
proportion to the area of the kernel. ``fft`` goes through Paddle's Fourier transforms, and is ``native`` for
kernels so small that they would lose. ``compiled`` is this package's C++ operator, ``python -m ppreplk.ops`` builds it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

import paddle
import paddle.nn.functional as F

from ..utils.errors import UserError
from . import cpu as compiled
from . import loading
from .build import DEPTHWISE, HOW_TO
from .fft import spectral_conv2d

logger = logging.getLogger(__name__)

AUTO = "auto"
# Kernel sizes from which ``fft`` beats ``native``. On CPU measured, forward and backward, on maps from 7x7 to
# 56x56 with two threads: level at 3 and 1.3 to 2.7 times as fast at 5. On GPU not measured: the times of a direct
# convolution published in the paper's table 1 against the memory traffic of the transforms.
FFT_FROM = {"cpu": 5, "gpu": 21}


class Implementation(NamedTuple):
    """A function (x, weight, bias) -> y, and one that raises a :class:`UserError` where it cannot run."""

    run: Callable
    require: Callable[[], None]


def _native(x, weight, bias):
    return F.conv2d(x, weight, bias, stride=1, padding=weight.shape[-1] // 2, groups=weight.shape[0])


def _fft(x, weight, bias):
    """Below the kernel size where it loses, it is ``native``."""
    return (spectral_conv2d if weight.shape[-1] >= FFT_FROM["cpu"] else _native)(x, weight, bias)


def _always() -> None:
    """It runs everywhere."""


IMPLEMENTATIONS = {
    "native": Implementation(_native, _always),
    "fft": Implementation(_fft, _always),
    "compiled": Implementation(compiled.compiled_conv2d, compiled.require),
}


def check_implementation(impl: str) -> str:
    """Return ``impl`` if it is ``"auto"`` or the name of an implementation that runs here.

    Raises:
        UserError: the name is unknown, or the implementation cannot run; says why.
    """
    if impl != AUTO:
        if impl not in IMPLEMENTATIONS:
            names = ", ".join([AUTO, *IMPLEMENTATIONS])
            raise UserError(f"unknown depthwise implementation {impl!r}; choose one of: {names}")
        IMPLEMENTATIONS[impl].require()
    return impl


def prepare(impl: str) -> None:
    """Get ready for ``impl``: with ``"auto"`` on CPU, build or load the compiled operator, or say why it is not used.

    Raises:
        UserError: see :func:`check_implementation`.
    """
    check_implementation(impl)
    if impl == AUTO and paddle.get_device() == "cpu":
        try:
            loading.load(DEPTHWISE)
        except UserError as error:
            logger.info("no compiled depthwise convolution: %s; %s", error, HOW_TO)


def choose(dtype: paddle.dtype, kernel_size: int, device: str) -> str:
    """The rule behind ``impl="auto"``, the same in training and inference and for every size of the maps.

    In a static graph ``native``, which runs wherever Paddle does. On CPU ``compiled`` where it is built. Otherwise
    ``fft`` from a kernel size on that depends on the device, see ``FFT_FROM``, and ``native`` below it.
    """
    if not paddle.in_dynamic_mode():
        return "native"
    kind = device.partition(":")[0]
    if kind == "cpu" and compiled.serves(dtype, kernel_size) and compiled.available():
        return "compiled"
    return "fft" if kind in FFT_FROM and kernel_size >= FFT_FROM[kind] else "native"


@functools.cache
def _announce(name: str) -> None:
    """Once per process and implementation."""
    logger.info(
        "large depthwise convolutions run as %s",
        f"compiled ({compiled.instruction_set()})" if name == "compiled" else name,
    )


def depthwise_conv2d(
    x: paddle.Tensor,
    weight: paddle.Tensor,
    bias: paddle.Tensor | None = None,
    impl: str = "auto",
    relu: bool = False,
) -> paddle.Tensor:
    """Depthwise 2-D convolution, stride 1, zero padding that keeps the map size ("same").

    Args:
        x: (N, C, H, W).
        weight: (C, 1, K, K) with odd K; K may exceed H and W.
        bias: (C,) or None.
        impl: ``"native"``, ``"fft"``, ``"compiled"``, or ``"auto"``, see :func:`choose`.
        relu: whether a ReLU follows; ``compiled`` programs do it in the same pass.

    Returns:
        (N, C, H, W), the dtype of ``x``.

    Raises:
        UserError: unknown ``impl``, one that cannot run here, or shapes that do not fit together.
    """
    check_implementation(impl)
    if len(x.shape) != 4:
        raise UserError(f"depthwise_conv2d needs x of shape (N, C, H, W), got {list(x.shape)}")
    size = weight.shape[-1]
    if list(weight.shape) != [x.shape[1], 1, size, size] or size % 2 == 0:
        raise UserError(
            f"depthwise_conv2d needs weight of shape ({x.shape[1]}, 1, K, K) with odd K, got {list(weight.shape)}"
        )
    if bias is not None and list(bias.shape) != [x.shape[1]]:
        raise UserError(f"depthwise_conv2d needs bias of shape ({x.shape[1]},), got {list(bias.shape)}")
    if impl == AUTO:
        impl = choose(x.dtype, size, paddle.get_device())
        if size >= FFT_FROM["cpu"]:
            _announce(impl)
    if impl == "compiled" and not compiled.serves(x.dtype, size):
        raise UserError(
            f"depthwise implementation 'compiled' takes float32, float16 and bfloat16 and kernels up to "
            f"{compiled.LARGEST_KERNEL}, got {str(x.dtype).removeprefix('paddle.')} and {size}"
        )
    if impl == "compiled" and not paddle.in_dynamic_mode():
        return compiled.static_conv2d(x, weight, bias, relu)
    y = IMPLEMENTATIONS[impl].run(x, weight, bias)
    return F.relu(y) if relu else y
