"""Structural re-parameterization of depthwise convolutions, as a layer."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn

from ..utils.errors import UserError
from . import fusion
from .blocks import depthwise_conv_bn
from .conv import DepthwiseConv2D, rebuilt_with_bias
from .norm import set_weight_bias


class ReparamDepthwiseConv(nn.Layer):
    """A large depthwise kernel trained with a parallel small one (paper section 3.1, guideline 3).

    Train form: ``lkb_origin`` (conv + BN) plus, where ``small_kernel`` is given, ``small_conv`` (conv + BN), summed.
    Merged form: ``lkb_reparam``, one convolution with bias. ``is_repped`` says which form this is.
    (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)).

    Args:
        channels: C.
        kernel_size: odd size of the large kernel.
        small_kernel: odd size of the parallel kernel, at most ``kernel_size``, or None for no second branch.
        stride, dilation: of both branches.
        merged: build the merged form.
        impl: see :func:`ppreplk.depthwise_conv2d`.

    Raises:
        UserError: a small kernel that is larger than the large one, of even size, or beside a dilated kernel, whose
            taps it would not meet.

    >>> layer = ReparamDepthwiseConv(4, kernel_size=31, small_kernel=5)
    >>> list(layer(paddle.ones([1, 4, 8, 8])).shape)
    [1, 4, 8, 8]
    >>> layer.re_parameterize()
    >>> layer.lkb_reparam.kernel_size
    31
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        small_kernel: int | None = None,
        stride: int = 1,
        dilation: int = 1,
        merged: bool = False,
        impl: str = "auto",
    ):
        super().__init__()
        if small_kernel is not None and small_kernel > kernel_size:
            raise UserError(
                f"small_kernel {small_kernel} is larger than kernel_size {kernel_size}", code="nn.bad-kernel-size"
            )
        if small_kernel is not None and dilation != 1:
            raise UserError(
                f"a parallel small kernel needs dilation 1, got dilation {dilation}", code="nn.bad-dilation"
            )
        self.channels = channels
        self.kernel_size = kernel_size
        self.small_kernel = small_kernel
        self.stride = stride
        self.dilation = dilation
        self.is_repped = merged
        if merged:
            self.lkb_reparam = DepthwiseConv2D(channels, kernel_size, stride, dilation, bias=True, impl=impl)
        else:
            self.lkb_origin = depthwise_conv_bn(channels, kernel_size, stride, dilation, impl=impl)
            if small_kernel is not None:
                self.small_conv = depthwise_conv_bn(channels, small_kernel, stride, impl=impl)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.is_repped:
            return self.lkb_reparam(x)
        if self.small_kernel is None:
            return self.lkb_origin(x)
        return self.lkb_origin(x) + self.small_conv(x)

    def merged_weight_bias(self) -> tuple[np.ndarray, np.ndarray]:
        """(C, 1, K, K) and (C,), float64: the convolution that equals both branches on running statistics."""
        weight, bias = self.lkb_origin.fused_weight_bias()
        if self.small_kernel is None:
            return weight, bias
        return fusion.add_branches(weight, bias, *self.small_conv.fused_weight_bias())

    def re_parameterize(self) -> None:
        """Replace the branches by one convolution. A second call changes nothing."""
        if self.is_repped:
            return
        weight, bias = self.merged_weight_bias()
        self.lkb_reparam = rebuilt_with_bias(self.lkb_origin.conv)
        set_weight_bias(self.lkb_reparam, weight, bias)
        del self.lkb_origin
        if self.small_kernel is not None:
            del self.small_conv
        self.is_repped = True
