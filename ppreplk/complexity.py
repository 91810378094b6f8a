"""Parameters and multiply-adds, counted on a real forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import paddle
from paddle import nn

from .layers import DepthwiseConv2D, eval_mode


@dataclass(frozen=True)
class Complexity:
    """``params`` are trainable parameters; ``macs`` are the multiply-adds of one forward pass."""

    params: int
    macs: int


@paddle.no_grad()
def count(model: nn.Layer, input_shape: Sequence[int]) -> Complexity:
    """Count what convolutions and linear layers cost, as the paper's "FLOPs" do.

    Batch normalizations, activations, biases and pooling are not counted. The paper's figures are those of
    the merged network (:func:`ppreplk.reparameterize`), for one image.

    Args:
        model: any Paddle layer; its mode is left as it was.
        input_shape: (N, C, H, W); multiply-adds are for all N images.

    Returns:
        Parameters and multiply-adds.
    """
    macs = 0

    def add_conv(layer, inputs, output):
        nonlocal macs
        pixels = output.shape[0] * output.shape[2] * output.shape[3]
        macs += pixels * layer.weight.size

    def add_linear(layer, inputs, output):
        nonlocal macs
        macs += inputs[0].size // inputs[0].shape[-1] * layer.weight.size

    hooks = []
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, (nn.Conv2D, DepthwiseConv2D)):
            hooks.append(layer.register_forward_post_hook(add_conv))
        elif isinstance(layer, nn.Linear):
            hooks.append(layer.register_forward_post_hook(add_linear))
    try:
        with eval_mode(model):
            model(paddle.zeros(list(input_shape)))
    finally:
        for hook in hooks:
            hook.remove()
    params = sum(parameter.size for parameter in model.parameters() if not parameter.stop_gradient)
    return Complexity(int(params), int(macs))
