"""The same device kernels for PyTorch, without Paddle: how they are verified and timed where Paddle is not."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional

from ..utils.errors import UserError
from .cuda_kernels import BFLOAT16, FLOAT16, FLOAT32, MAX_KERNEL, Call, Kernels, kernels_for, sizes_of

DEVICE = "cuda"


@functools.cache
def kernels_on(device: Any) -> Kernels:
    """The kernels for this ``torch.device``, built and loaded if needed.

    Raises:
        UserError: they cannot be built or loaded; says why.
    """
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    return kernels_for(10 * major + minor)


def depthwise_conv2d(x: Any, weight: Any, bias: Any = None, relu: bool = False) -> Any:
    """:func:`ppreplk.depthwise_conv2d` of tensors of PyTorch on an NVIDIA GPU, with gradients.

    Args:
        x: (N, C, H, W) in float32, float16 or bfloat16. With ``torch.autocast``, float32 becomes its type.
        weight: (C, 1, K, K) with odd K up to 127, of any of these types.
        bias: (C,) or None.
        relu: whether a ReLU follows; without gradients it is done in the same pass.

    Returns:
        (N, C, H, W), the dtype of ``x``.

    Raises:
        UserError: shapes, types or devices that do not fit, or the kernels cannot be built or loaded.
    """
    import torch

    if x.dtype == torch.float32 and torch.is_autocast_enabled(DEVICE):
        x = x.to(torch.get_autocast_dtype(DEVICE))
    _check(x, weight, bias)
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (x, weight, bias)):
        y = _function().apply(x, weight, bias)
        return torch.relu(y) if relu else y
    return _forward(x, weight, bias, relu)


@functools.cache
def _types() -> dict[Any, int]:
    import torch

    return {torch.float32: FLOAT32, torch.float16: FLOAT16, torch.bfloat16: BFLOAT16}


def _check(x: Any, weight: Any, bias: Any) -> None:
    kernel = sizes_of(x.shape, weight.shape)[-1]
    if kernel % 2 == 0 or kernel > MAX_KERNEL or not {x.dtype, weight.dtype} <= set(_types()):
        raise UserError(
            f"the device kernels take float32, float16 and bfloat16 and odd kernels up to {MAX_KERNEL}, got {x.dtype}, "
            f"{weight.dtype} and {kernel}",
            code="ops.not-served",
        )
    if bias is not None and list(bias.shape) != [x.shape[1]]:
        raise UserError(
            f"depthwise convolution needs bias of shape ({x.shape[1]},), got {list(bias.shape)}", code="ops.bad-shape"
        )
    devices = {str(each.device) for each in (x, weight, bias) if each is not None}
    if x.device.type != DEVICE or len(devices) > 1:
        raise UserError(
            f"the device kernels take tensors on one GPU, got some on {', '.join(sorted(devices))}",
            code="ops.wrong-device",
        )


def _run(x: Any, weight: Any, operation: str, *tensors: Any) -> None:
    """Run an operation of :class:`Kernels` on x's device and on its current stream; tensors become addresses."""
    import torch

    kept = []

    def allocate(size: int) -> int:
        kept.append(torch.empty(size, dtype=torch.uint8, device=x.device))
        return kept[-1].data_ptr()

    types = _types()
    addresses = (each.data_ptr() if isinstance(each, torch.Tensor) else each for each in tensors)
    with _device(x.device) as stream:
        call = Call(sizes_of(x.shape, weight.shape), types[x.dtype], types[weight.dtype], allocate, stream)
        getattr(kernels_on(x.device), operation)(call, *addresses)


@contextmanager
def _device(device: Any) -> Iterator[int]:
    """Make a device the current one; gives the address of its current stream."""
    import torch

    with torch.cuda.device(device):
        yield torch.cuda.current_stream(device).cuda_stream


def _forward(x: Any, weight: Any, bias: Optional[Any], relu: bool) -> Any:
    import torch

    x, weight = x.contiguous(), weight.contiguous()
    y = torch.empty_like(x)
    _run(x, weight, "forward", x, weight, None if bias is None else bias.float().contiguous(), relu, y)
    return y


def gradients(x: Any, weight: Any, dy: Any, wanted: Sequence[bool] = (True, True)) -> tuple[Any, Any]:
    """The gradients of x and of the weight, those that are wanted; the others are None.

    Args:
        x, weight, dy: what :func:`depthwise_conv2d` takes, and the gradient of its output in the dtype of x.
    """
    import torch

    x, weight, dy = x.contiguous(), weight.contiguous(), dy.contiguous()
    dx, dweight = (torch.empty_like(each) if want else None for each, want in zip((x, weight), wanted))
    _run(x, weight, "gradients", x, weight, dy, dx, dweight)
    return dx, dweight


@functools.cache
def _function() -> Any:
    """The class of the differentiable function, made when PyTorch is there."""
    import torch

    class Conv2D(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> Any:
            ctx.save_for_backward(x, weight)
            ctx.bias_dtype = None if bias is None else bias.dtype
            return _forward(x, weight, bias, False)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Any) -> Any:
            x, weight = ctx.saved_tensors
            dx, dweight = gradients(x, weight, gradient.to(x.dtype), ctx.needs_input_grad[:2])
            wants_bias = ctx.bias_dtype is not None and ctx.needs_input_grad[2]
            return dx, dweight, gradient.float().sum((0, 2, 3)).to(ctx.bias_dtype) if wants_bias else None

    return Conv2D
