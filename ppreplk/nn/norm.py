"""Batch normalization: the one used everywhere here, its affine map, and what is left of it after folding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import paddle
from paddle import nn

from . import fusion

BN_EPSILON = 1e-5
BN_MOMENTUM = 0.9  # Paddle gives the share that is kept; PyTorch's 0.1 is the share that is replaced


def batch_norm(channels: int) -> nn.BatchNorm2D:
    """The batch normalization used everywhere here. (N, C, H, W) -> (N, C, H, W)."""
    return nn.BatchNorm2D(channels, momentum=BN_MOMENTUM, epsilon=BN_EPSILON)


def to_numpy(tensor: paddle.Tensor) -> np.ndarray:
    """A float32 array. numpy has no bfloat16, and fusion needs more than half precision."""
    return tensor.astype("float32").numpy()


def bn_scale_shift(bn: nn.Layer) -> tuple[np.ndarray, np.ndarray]:
    """``scale`` and ``shift``, (C,) float64, of a :func:`batch_norm` on its running statistics, in any mode."""
    gamma, beta, mean, variance = (to_numpy(t) for t in (bn.weight, bn.bias, bn._mean, bn._variance))
    return fusion.bn_scale_shift(gamma, beta, mean, variance, BN_EPSILON)


class ChannelAffine(nn.Layer):
    """``scale * x + shift`` per channel. (N, C, H, W) -> (N, C, H, W).

    Folding leaves it in the place of a batch normalization that no convolution can absorb.
    """

    def __init__(self, scale: np.ndarray, shift: np.ndarray):
        super().__init__()
        shape = [1, len(scale), 1, 1]
        self.scale = self.create_parameter(shape)
        self.shift = self.create_parameter(shape, is_bias=True)
        self.scale.set_value(scale.reshape(shape).astype(np.float32))
        self.shift.set_value(shift.reshape(shape).astype(np.float32))

    def forward(self, x):
        return x * self.scale + self.shift


def set_weight_bias(layer: nn.Layer, weight: np.ndarray, bias: np.ndarray) -> None:
    """Overwrite the parameters of ``layer``, rounding to its dtype."""
    for parameter, value in ((layer.weight, weight), (layer.bias, bias)):
        parameter.set_value(paddle.to_tensor(value.astype(np.float32)).astype(parameter.dtype))


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
