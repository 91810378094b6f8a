"""Ways to compute a depthwise convolution on a GPU through PyTorch: ours, cuDNN's, PyTorch's own, and cuFFT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ops import cuda_torch
from .oracle import Spectral, operands
from .problems import Problem

OURS = "ours"
CUDNN, CHANNELS_LAST = "cuDNN NCHW", "cuDNN channels-last"
PYTORCH = "PyTorch NCHW"
CUFFT = "cuFFT"
RIVALS = (CHANNELS_LAST, PYTORCH, CUDNN, CUFFT)
CONTESTANTS = (OURS, *RIVALS)
NOTES = (
    "All contestants start with cold caches. Backward is both gradients. cuDNN chooses its algorithms by trying them.",
    "Times are those of the GPU: it has the whole call before it begins, so what Python takes is not counted.",
    f"{PYTORCH} is what PyTorch runs by itself: mostly kernels of its own, and cuDNN's for some in half precision. "
    f"{CUDNN} forces cuDNN; PyTorch offers that for the forward pass only.",
    f"{CUFFT} transforms in float32 whatever the type; the conversions are part of its time.",
)

Run = Callable[[], Any]


def contestant(name: str, problem: Problem, type_name: str, backward: bool, device: str) -> Run | None:
    """A function that computes the output, or both gradients; None where there is no such thing."""
    x, weight, _, dy = operands(problem, type_name, device)
    if name == OURS:
        if backward:
            return lambda: cuda_torch.gradients(x, weight, dy)
        return lambda: cuda_torch.depthwise_conv2d(x, weight)
    if name == CUFFT:
        return _spectral(Spectral(problem), x, weight, dy, backward)
    if name == CUDNN:
        return None if backward else _forced(x, weight, problem)
    return _convolution(x, weight, dy, problem, backward, name == CHANNELS_LAST)


def _spectral(spectral: Spectral, x: Any, weight: Any, dy: Any, backward: bool) -> Run:
    dtype = x.dtype

    def output() -> Any:
        return spectral.output(x.float(), weight.float()).to(dtype).contiguous()

    def gradients() -> list[Any]:
        results = spectral.gradients(x.float(), weight.float(), dy.float())
        return [each.to(dtype).contiguous() for each in results]

    return gradients if backward else output


def _forced(x: Any, weight: Any, problem: Problem) -> Run:
    import torch

    half, groups = problem.kernel // 2, problem.channels
    return lambda: torch.ops.aten.cudnn_convolution(x, weight, [half, half], [1, 1], [1, 1], groups, True, False, False)


def _convolution(x: Any, weight: Any, dy: Any, problem: Problem, backward: bool, channels_last: bool) -> Run:
    import torch

    half, groups = problem.kernel // 2, problem.channels
    if channels_last:
        x, weight, dy = (each.to(memory_format=torch.channels_last) for each in (x, weight, dy))
    if not backward:
        return lambda: torch.conv2d(x, weight, padding=half, groups=groups)
    geometry = [0], [1, 1], [half, half], [1, 1], False, [0, 0], groups, [True, True, False]
    return lambda: torch.ops.aten.convolution_backward(dy, x, weight, *geometry)[:2]
