"""The ``fast`` form of a folded RepLKNet: the same layers in channels-last operators of ours, for CPUs.

Every tensor between the images and the pooled features is (N, H, W, C), in float32 or bfloat16. Weights stay plain
float32 parameters; the program packs them when it is loaded.
"""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import nn

from ..models.replknet.network import ConvFFN, RepLKBlock, RepLKNet
from ..ops import cpu as compiled
from ..ops import onednn as dense
from ..utils.errors import UserError
from .conv import ConvBN, DenseConv2D, DepthwiseConv2D


class Convolution(nn.Layer):
    """A convolution with bias, and what follows it: a residual, an activation. (N, H, W, in) -> (N, H', W', out)."""

    def __init__(self, conv: DenseConv2D | DepthwiseConv2D, activation: str, bfloat16: bool):
        super().__init__()
        own = conv.hyperparameters
        self.weight, self.bias = conv.weight, conv.bias
        self.kernel, self.stride = own["kernel_size"], own["stride"]
        self.groups = conv.groups
        self.activation = activation
        self.bfloat16 = bfloat16

    def forward(self, x, residual=None):
        packed = dense.pack(self.weight, *x.shape[1:3], self.stride, self.groups, self.bfloat16)
        return dense.conv(x, packed, self.bias, residual, self.kernel, self.stride, self.groups, self.activation)


class LargeKernel(nn.Layer):
    """A depthwise convolution of stride 1 with bias and ReLU, in float32 arithmetic. (N, H, W, C) -> (N, H, W, C).

    Raises:
        UserError: a kernel that the compiled operator does not take.
    """

    def __init__(self, conv: DepthwiseConv2D):
        super().__init__()
        size, dilation = conv.hyperparameters["kernel_size"], conv.hyperparameters["dilation"]
        if dilation != 1 or not compiled.serves(conv.weight.dtype, size):
            raise UserError(
                f"the fast operators take large kernels up to {compiled.MAX_KERNEL} without dilation, this one has "
                f"{size}, dilation {dilation}; use -o Global.export_runtime=native"
            )
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x):
        packed = compiled.pack(self.weight, *x.shape[1:3])
        return compiled.packed_conv2d_nhwc(x, self.weight, packed, self.bias, relu=True)


class Block(nn.Layer):
    """A folded RepLK block: pointwise with ReLU, large kernel with ReLU, pointwise with the residual."""

    def __init__(self, block: RepLKBlock, bfloat16: bool):
        super().__init__()
        self.pw1 = Convolution(block.pw1.conv, "relu", bfloat16)
        self.large_kernel = LargeKernel(block.large_kernel.lkb_reparam)
        self.pw2 = Convolution(block.pw2.conv, "none", bfloat16)

    def forward(self, x):
        return self.pw2(self.large_kernel(self.pw1(x)), x)


class FeedForward(nn.Layer):
    """A folded ConvFFN: pointwise with GELU, pointwise with the residual."""

    def __init__(self, block: ConvFFN, bfloat16: bool):
        super().__init__()
        self.pw1 = Convolution(block.pw1.conv, "gelu", bfloat16)
        self.pw2 = Convolution(block.pw2.conv, "none", bfloat16)

    def forward(self, x):
        return self.pw2(self.pw1(x), x)


class ChannelsLastNetwork(nn.Layer):
    """A folded classifier in these operators; it shares the parameters. (N, 3, H, W) float32 -> (N, class_num).

    Args:
        network: what :func:`ppreplk.fold` returned.
        bfloat16: whether tensors are bfloat16 and products are of bfloat16 numbers; sums are float32 either way.

    Raises:
        UserError: no RepLKNet, or a backbone, or kernels that are too large.
    """

    def __init__(self, network: nn.Layer, bfloat16: bool):
        super().__init__()
        if not isinstance(network, RepLKNet) or network.out_indices is not None:
            raise UserError(
                f"the fast operators serve RepLKNet classifiers only, not this {type(network).__name__}; use "
                "-o Global.export_runtime=native"
            )
        assert network.is_fused, "fold the network first"
        self.bfloat16 = bfloat16
        self.parts = nn.LayerList(self._converted(layer) for layer in network.in_order())
        self.head = network.head
        self.eval()

    def _converted(self, layer: nn.Layer) -> nn.Layer:
        if isinstance(layer, RepLKBlock):
            return Block(layer, self.bfloat16)
        if isinstance(layer, ConvFFN):
            return FeedForward(layer, self.bfloat16)
        assert isinstance(layer, ConvBN) and isinstance(layer.nonlinear, nn.ReLU)
        return Convolution(layer.conv, "relu", self.bfloat16)

    def forward(self, images):
        x = dense.images(images, self.bfloat16)
        for part in self.parts:
            x = part(x)
        return F.linear(dense.pool(x), self.head.weight, self.head.bias)
