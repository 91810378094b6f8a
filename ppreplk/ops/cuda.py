"""The depthwise convolution on NVIDIA GPUs, in eager mode: the device kernels behind a ``PyLayer``.

``auto`` does not take it: the kernels are experimental until they have been run on a GPU.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, Optional

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from ..utils.errors import UserError
from .cuda_kernels import BFLOAT16, FLOAT16, FLOAT32, MAX_KERNEL, STATE, Call, Kernels, kernels_for, sizes_of

logger = logging.getLogger(__name__)

DTYPES = {paddle.float32: FLOAT32, paddle.float16: FLOAT16, paddle.bfloat16: BFLOAT16}
NAMES = {"float16": paddle.float16, "bfloat16": paddle.bfloat16}  # what autocast calls its type


def check_available() -> None:
    """Check that the convolution can run on the device that is set; builds and loads the kernels if needed.

    Raises:
        UserError: it cannot; says why.
    """
    if not paddle.in_dynamic_mode():
        raise UserError(
            "depthwise implementation 'cuda' runs in eager mode only, this is a static graph; use native there",
            code="ops.static-graph",
        )
    device = paddle.get_device()
    if not device.startswith("gpu"):
        raise UserError(f"depthwise implementation 'cuda' runs on gpu, the device is {device}", code="ops.wrong-device")
    try:
        _kernels(device)
    except UserError as error:
        raise error.at("depthwise implementation 'cuda' cannot run") from error


def available() -> bool:
    """Whether the convolution can run on the device that is set. Builds the kernels where nvcc is, and asks once."""
    return _usable(paddle.get_device())


@functools.cache
def _usable(device: str) -> bool:
    try:
        check_available()
    except UserError:
        return False
    return True


@functools.cache
def _kernels(device: str) -> Kernels:
    major, minor = paddle.device.cuda.get_device_capability(device)
    kernels = kernels_for(10 * major + minor)
    logger.info("depthwise convolutions run as cuda (sm_%d%d): %s", major, minor, STATE)
    return kernels


def serves(dtype: paddle.dtype, kernel_size: int) -> bool:
    """Whether the kernels take tensors of this type and weights of this size."""
    return dtype in DTYPES and kernel_size <= MAX_KERNEL


def _is_on_gpu(tensor: Tensor) -> bool:
    """Whether it lies on the GPU that is set: kernels and stream are that one's."""
    place = tensor.place
    return place.is_gpu_place() and f"gpu:{place.gpu_device_id()}" == paddle.get_device()


def _stream() -> int:
    """The current stream of the device that is set."""
    return paddle.device.current_stream().stream_base.cuda_stream


def _ready(tensor: Tensor, dtype: Optional[paddle.dtype] = None) -> Tensor:
    """The tensor in this type, in one piece of the GPU's memory."""
    if not _is_on_gpu(tensor):
        raise UserError(
            f"depthwise implementation 'cuda' takes tensors in the memory of {paddle.get_device()}, got one in "
            f"{tensor.place}",
            code="ops.wrong-device",
        )
    tensor = tensor if dtype is None or tensor.dtype == dtype else tensor.astype(dtype)
    return tensor if tensor.is_contiguous() else tensor.contiguous()


class _Workspaces:
    """The workspaces of one call, kept until it has returned: Paddle gives memory to later work of the stream."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def __call__(self, size: int) -> int:
        self._kept.append(paddle.empty([size], paddle.uint8))
        return self._kept[-1].data_ptr()


def _call(x: Tensor, weight: Tensor) -> Call:
    sizes = sizes_of(x.shape, weight.shape)
    if not {x.dtype, weight.dtype} <= set(DTYPES):
        x_type, weight_type = (str(each.dtype).removeprefix("paddle.") for each in (x, weight))
        raise UserError(
            f"depthwise implementation 'cuda' takes float32, float16 and bfloat16, got x of {x_type} and weight of "
            f"{weight_type}",
            code="ops.not-served",
        )
    return Call(sizes, DTYPES[x.dtype], DTYPES[weight.dtype], _Workspaces(), _stream())


def _forward(x: Tensor, weight: Tensor, bias: Optional[Tensor], relu: bool) -> Tensor:
    x, weight = _ready(x), _ready(weight)
    bias = None if bias is None else _ready(bias, paddle.float32)
    y = paddle.empty_like(x)
    address = None if bias is None else bias.data_ptr()
    kernels = _kernels(paddle.get_device())
    kernels.forward(_call(x, weight), x.data_ptr(), weight.data_ptr(), address, relu, y.data_ptr())
    return y


class _Conv2D(PyLayer):
    """The bias may be None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.wanted = [tensor is not None and not tensor.stop_gradient for tensor in (x, weight, bias)]
        ctx.bias_dtype = None if bias is None else bias.dtype
        return _forward(x, weight, bias, False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Optional[Tensor], ...]:
        x, weight = (_ready(tensor) for tensor in ctx.saved_tensor())
        dy = _ready(gradient, x.dtype)
        dx, dweight = (paddle.empty_like(tensor) if wanted else None for tensor, wanted in zip((x, weight), ctx.wanted))
        addresses = (None if tensor is None else tensor.data_ptr() for tensor in (dx, dweight))
        kernels = _kernels(paddle.get_device())
        kernels.gradients(_call(x, weight), x.data_ptr(), weight.data_ptr(), dy.data_ptr(), *addresses)
        if ctx.bias_dtype is None:
            return dx, dweight
        dbias = dy.astype(paddle.float32).sum([0, 2, 3]).astype(ctx.bias_dtype) if ctx.wanted[2] else None
        return dx, dweight, dbias


def _autocast(x: Tensor) -> Tensor:
    """Float32 images in the type of ``paddle.amp.auto_cast``, where that is on. Paddle does so for convolutions."""
    tracer = paddle.base.framework._dygraph_tracer()  # the state has no public name
    if x.dtype != paddle.float32 or tracer._amp_level == paddle.base.core.AmpLevel.O0:
        return x
    return x.astype(NAMES.get(tracer._amp_dtype, paddle.float32))


def conv2d(x: Tensor, weight: Tensor, bias: Optional[Tensor], relu: bool = False) -> Tensor:
    """As :func:`ppreplk.depthwise_conv2d`, with gradients. Without them the ReLU is done in the same pass.

    Weights may be of another type than x. With ``paddle.amp.auto_cast``, float32 images are convolved in its type.
    """
    x = _autocast(x)
    operands = [x, weight] if bias is None else [x, weight, bias]
    if paddle.is_grad_enabled() and any(not each.stop_gradient for each in operands):
        y = _Conv2D.apply(x, weight, bias)
        return paddle.nn.functional.relu(y) if relu else y
    return _forward(x, weight, bias, relu)
