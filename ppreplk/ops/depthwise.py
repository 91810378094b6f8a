"""Depthwise convolution with large kernels: one function, a table of implementations, one rule.

``native`` is Paddle's own operator. It is the reference that every other implementation is tested against, and its
time grows with the area of the kernel. ``fft`` goes through Paddle's Fourier transforms, and falls back to ``native``
for kernels so small that the transforms would be slower. ``cpu`` is this package's convolution in C++: an operator that
``python -m ppreplk.ops`` builds, or its core, which comes with a platform wheel. ``cuda`` is its counterpart on NVIDIA
GPUs, experimental until it has been run on one; ``python -m ppreplk.ops cuda`` builds it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import NamedTuple, Optional

import paddle
import paddle.nn.functional as F

from ..utils.errors import UserError
from . import cpu, cuda, nvcc
from .build import HOW_TO
from .fft import spectral_conv2d

logger = logging.getLogger(__name__)

AUTO = "auto"
RENAMED = {"compiled": "cpu"}  # old names of implementations, which are still read
# The smallest kernel for which ``fft`` is faster than ``native``. On CPU: measured, forward and backward, on maps from
# 7x7 to 56x56 with two threads; the two are level at 3, and ``fft`` is 1.3 to 2.7 times as fast at 5. On GPU: not
# measured, but estimated from the times of direct convolutions in the paper's table 1 and the memory traffic of the
# transforms.
FFT_FROM = {"cpu": 5, "gpu": 21}
# The same for ``cuda`` on a GPU; None is never. tools/gpu_check.py prints both numbers at its end.
CUDA_FROM: Optional[int] = None

DepthwiseConv = Callable[[paddle.Tensor, paddle.Tensor, Optional[paddle.Tensor]], paddle.Tensor]


class Implementation(NamedTuple):
    """One way to compute the convolution.

    Args:
        run: (x, weight, bias) -> y.
        check_available: raises a :class:`UserError` that says why, if it cannot run on the device that is set.
    """

    run: DepthwiseConv
    check_available: Callable[[], None]


def _native(x: paddle.Tensor, weight: paddle.Tensor, bias: Optional[paddle.Tensor]) -> paddle.Tensor:
    return F.conv2d(x, weight, bias, stride=1, padding=weight.shape[-1] // 2, groups=weight.shape[0])


def _fft(x: paddle.Tensor, weight: paddle.Tensor, bias: Optional[paddle.Tensor]) -> paddle.Tensor:
    return (spectral_conv2d if weight.shape[-1] >= FFT_FROM["cpu"] else _native)(x, weight, bias)


def _runs_everywhere() -> None:
    pass


IMPLEMENTATIONS = {
    "native": Implementation(_native, _runs_everywhere),
    "fft": Implementation(_fft, _runs_everywhere),
    "cpu": Implementation(cpu.conv2d, cpu.check_available),
    "cuda": Implementation(cuda.conv2d, cuda.check_available),
}
# {implementation: whether it takes tensors of a type and kernels of a size}; the others take all
LIMITS: dict[str, Callable[[paddle.dtype, int], bool]] = {"cpu": cpu.serves, "cuda": cuda.serves}


@functools.cache
def _announce_rename(old: str) -> None:
    """Once per process and name."""
    logger.info("depthwise implementation %r is called %r now; please write that", old, RENAMED[old])


def check_implementation(impl: str) -> str:
    """The name of an implementation that runs here: ``impl`` itself, or its new name if it was renamed.

    ``"auto"`` is accepted as it is.

    Raises:
        UserError: the name is unknown, or the implementation cannot run; says why.
    """
    if impl == AUTO:
        return impl
    if impl in RENAMED:
        _announce_rename(impl)
        impl = RENAMED[impl]
    if impl not in IMPLEMENTATIONS:
        names = [AUTO, *IMPLEMENTATIONS]
        raise UserError(
            f"unknown depthwise implementation {impl!r}; choose one of: {', '.join(names)}",
            code="ops.unknown-implementation",
        )
    IMPLEMENTATIONS[impl].check_available()
    return impl


def prepare(impl: str) -> None:
    """Get ready for ``impl``. With ``"auto"``, load or build our own convolution, or log why it is not used.

    On a CPU that is the one in C++, on a GPU the device kernels, once ``CUDA_FROM`` says that they are taken.

    Raises:
        UserError: see :func:`check_implementation`.
    """
    if check_implementation(impl) != AUTO:
        return
    device = paddle.get_device()
    try:
        if device == "cpu":
            cpu.prepare()
        elif device.startswith("gpu") and CUDA_FROM is not None:
            cuda.check_available()
    except UserError as error:
        how_to = HOW_TO if device == "cpu" else nvcc.HOW_TO
        what = "C++ operator" if device == "cpu" else "device kernels"
        logger.info("depthwise convolutions run without the %s: %s; %s", what, error, how_to)


def choose(dtype: paddle.dtype, kernel_size: int, device: str) -> str:
    """The implementation that ``impl="auto"`` stands for; the same in training and inference and for all map sizes.

    On a CPU it is ``cpu`` where that is built, or came with the wheel. Otherwise it is ``fft`` from the kernel size in
    ``FFT_FROM`` on, and ``native`` below it and on devices that ``FFT_FROM`` does not know. In a static graph it is
    ``native``, which runs wherever Paddle does. It is ``cuda`` from ``CUDA_FROM`` on, which is never: that has not been
    run on a GPU yet.
    """
    if not paddle.in_dynamic_mode():
        return "native"
    kind = device.partition(":")[0]
    if kind == "cpu" and cpu.serves(dtype, kernel_size) and cpu.available():
        return "cpu"
    if kind == "gpu" and CUDA_FROM is not None and kernel_size >= CUDA_FROM:
        if cuda.serves(dtype, kernel_size) and cuda.available():
            return "cuda"
    return "fft" if kind in FFT_FROM and kernel_size >= FFT_FROM[kind] else "native"


@functools.cache
def _announce(name: str) -> None:
    """Once per process and implementation."""
    if name == "cpu":
        name = f"cpu ({cpu.instruction_set()}{', prebuilt' if cpu.is_prebuilt() else ''})"
    logger.info("large depthwise convolutions run as %s", name)


def depthwise_conv2d(
    x: paddle.Tensor,
    weight: paddle.Tensor,
    bias: paddle.Tensor | None = None,
    impl: str = "auto",
    relu: bool = False,
) -> paddle.Tensor:
    """Depthwise 2-D convolution with stride 1 and the zero padding that keeps the map size ("same").

    As in all of deep learning, the kernel is not flipped: it is a cross-correlation.

    Args:
        x: (N, C, H, W).
        weight: (C, 1, K, K) with odd K; K may exceed H and W.
        bias: (C,) or None.
        impl: ``"native"``, ``"fft"``, ``"cpu"``, ``"cuda"``, or ``"auto"``, see :func:`choose`.
        relu: whether a ReLU follows. In a static graph, ``"cpu"`` does it in the same pass; so does ``"cuda"`` where
            no gradients are wanted.

    Returns:
        (N, C, H, W), the dtype of ``x``.

    Raises:
        UserError: unknown ``impl``, one that cannot run here, or shapes that do not fit together.

    >>> import ppreplk
    >>> x, weight = paddle.ones([1, 2, 8, 8]), paddle.ones([2, 1, 31, 31])
    >>> y = ppreplk.depthwise_conv2d(x, weight)
    >>> list(y.shape), round(float(y.max()))
    ([1, 2, 8, 8], 64)
    """
    impl = check_implementation(impl)
    if len(x.shape) != 4:
        raise UserError(f"depthwise_conv2d needs x of shape (N, C, H, W), got {list(x.shape)}", code="ops.bad-shape")
    size = weight.shape[-1]
    if list(weight.shape) != [x.shape[1], 1, size, size] or size % 2 == 0:
        raise UserError(
            f"depthwise_conv2d needs weight of shape ({x.shape[1]}, 1, K, K) with odd K, got {list(weight.shape)}",
            code="ops.bad-shape",
        )
    if bias is not None and list(bias.shape) != [x.shape[1]]:
        raise UserError(
            f"depthwise_conv2d needs bias of shape ({x.shape[1]},), got {list(bias.shape)}", code="ops.bad-shape"
        )
    if impl == AUTO:
        impl = choose(x.dtype, size, paddle.get_device())
        if size >= FFT_FROM["cpu"]:
            _announce(impl)
    if impl in LIMITS and not LIMITS[impl](x.dtype, size):
        raise UserError(
            f"depthwise implementation {impl!r} takes float32, float16 and bfloat16 and kernels up to "
            f"{cpu.MAX_KERNEL}, got {str(x.dtype).removeprefix('paddle.')} and {size}",
            code="ops.not-served",
        )
    if impl == "cpu" and not paddle.in_dynamic_mode():
        return cpu.static_conv2d(x, weight, bias, relu)
    if impl == "cuda":
        return cuda.conv2d(x, weight, bias, relu)
    y = IMPLEMENTATIONS[impl].run(x, weight, bias)
    return F.relu(y) if relu else y
