"""Batch normalization: the one used everywhere here, its affine map, and what is left of it after folding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ..utils.errors import UserError
from . import fusion

BN_EPSILON = 1e-5
BN_MOMENTUM = 0.9  # Paddle gives the share that is kept; PyTorch's 0.1 is the share that is replaced
BATCH_NORMS = (nn.BatchNorm2D, nn.SyncBatchNorm, nn.BatchNorm)


def batch_norm(channels: int) -> nn.BatchNorm2D:
    """The batch normalization used everywhere here. (N, C, H, W) -> (N, C, H, W)."""
    return nn.BatchNorm2D(channels, momentum=BN_MOMENTUM, epsilon=BN_EPSILON)


def to_numpy(tensor: paddle.Tensor) -> np.ndarray:
    """A float32 array, or float64 of a float64 tensor. numpy has no bfloat16, and fusion needs more than float16."""
    return (tensor if tensor.dtype == paddle.float64 else tensor.astype("float32")).numpy()


def bn_scale_shift(bn: nn.Layer) -> tuple[np.ndarray, np.ndarray]:
    """``scale`` and ``shift``, (C,) float64, of a batch normalization on its running statistics, in any mode.

    Raises:
        UserError: another kind of normalization, which depends on its input.
    """
    if not isinstance(bn, BATCH_NORMS):
        raise UserError(
            f"only batch normalizations can be absorbed into a convolution, not {type(bn).__name__}",
            code="nn.not-a-batch-norm",
        )
    mean, variance = to_numpy(bn._mean), to_numpy(bn._variance)
    gamma = np.ones_like(mean) if bn.weight is None else to_numpy(bn.weight)
    beta = np.zeros_like(mean) if bn.bias is None else to_numpy(bn.bias)
    return fusion.bn_scale_shift(gamma, beta, mean, variance, bn._epsilon)


class ChannelAffine(nn.Layer):
    """``scale * x + shift`` per channel. (N, C, H, W) -> (N, C, H, W).

    Folding leaves it in the place of a batch normalization that no convolution can absorb.

    >>> layer = ChannelAffine(scale=np.array([2.0, 3.0]), shift=np.array([0.0, 1.0]))
    >>> layer(paddle.ones([1, 2, 1, 1])).flatten().tolist()
    [2.0, 4.0]
    """

    def __init__(self, scale: np.ndarray, shift: np.ndarray, dtype: Any = "float32"):
        super().__init__()
        shape = [1, len(scale), 1, 1]
        self.scale = self.create_parameter(shape, dtype=dtype)
        self.shift = self.create_parameter(shape, dtype=dtype, is_bias=True)
        for parameter, value in ((self.scale, scale), (self.shift, shift)):
            parameter.set_value(paddle.to_tensor(value.reshape(shape).astype(np.float64)).astype(dtype))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x * self.scale + self.shift


def set_weight_bias(layer: nn.Layer, weight: np.ndarray, bias: np.ndarray) -> None:
    """Overwrite the parameters of ``layer``, rounding to its dtype."""
    for parameter, value in ((layer.weight, weight), (layer.bias, bias)):
        parameter.set_value(paddle.to_tensor(value.astype(np.float64)).astype(parameter.dtype))


def fuse_bn_linear(bn: nn.Layer, linear: nn.Linear) -> None:
    """Absorb a :func:`batch_norm` into the ``linear`` layer behind it. An average pool may stand between them."""
    weight, bias = to_numpy(linear.weight), to_numpy(linear.bias)
    set_weight_bias(linear, *fusion.scale_linear_input(weight, bias, *bn_scale_shift(bn)))


@contextmanager
def eval_mode(model: nn.Layer) -> Iterator[None]:
    """Eval mode inside the block. Afterwards every sublayer is in the mode it was in."""
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training
