"""Convolutions with square kernels, "same" padding, PyTorch's initialization, and plain attributes."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from ..ops.depthwise import AUTO, check_implementation, choose, depthwise_conv2d
from ..utils.errors import UserError

CPU = "cpu"  # the implementation in C++, see :mod:`ppreplk.ops.depthwise`


def torch_uniform(fan_in: int) -> nn.initializer.Uniform:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for weights and biases of conv and linear layers."""
    bound = fan_in**-0.5
    return nn.initializer.Uniform(-bound, bound)


class Conv2D(nn.Conv2D):
    """``nn.Conv2D`` with a square kernel and padding ``kernel_size // 2``. (N, in, H, W) -> (N, out, H', W').

    Args:
        in_channels, out_channels, kernel_size, stride, groups: as in ``nn.Conv2D``; readable as attributes.
        bias: whether there is a (out,) bias.

    >>> list(Conv2D(3, 8, kernel_size=3, stride=2)(paddle.ones([1, 3, 8, 8])).shape)
    [1, 8, 4, 4]
    """

    dilation = 1
    relu = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
    ):
        fan_in = in_channels // groups * kernel_size**2
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            weight_attr=paddle.ParamAttr(initializer=torch_uniform(fan_in)),
            bias_attr=paddle.ParamAttr(initializer=torch_uniform(fan_in)) if bias else False,
        )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.groups = groups

    def with_bias(self) -> Conv2D:
        """A new convolution of the same size that has a bias."""
        return Conv2D(self.in_channels, self.out_channels, self.kernel_size, self.stride, self.groups, bias=True)


# A strided or dilated kernel can also be computed at stride 1, written out with the zeros of its dilation, and the
# outputs between the strides dropped. In the C++ operator that is faster than Paddle's own strided operator for
# kernels of at least MIN_EXTENT pixels, and for any kernel on maps of at most MAX_SMALL_MAP pixels (measured with
# stride 2, forward and backward).
MIN_EXTENT = 5
MAX_SMALL_MAP = 14 * 14


class DepthwiseConv2D(nn.Layer):
    """Depthwise convolution. (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)).

    The padding is ``dilation * (kernel_size // 2)``. A layer of stride 1 without dilation is computed by
    :func:`ppreplk.depthwise_conv2d`. Other layers are computed by Paddle's operator, or by the C++ operator at
    stride 1 where that is faster, see :data:`MIN_EXTENT`.

    Args:
        channels: C; also readable as ``in_channels``, ``out_channels`` and ``groups``.
        kernel_size: odd K; the weight is (C, 1, K, K).
        stride, dilation: of the convolution.
        bias: whether there is a (C,) bias.
        impl: implementation, see :func:`ppreplk.depthwise_conv2d`.

    Attributes:
        relu: whether a ReLU follows inside this layer, see :func:`ppreplk.nn.fuse_relu`.

    Raises:
        UserError: even kernel size, unknown implementation.

    >>> list(DepthwiseConv2D(4, kernel_size=31)(paddle.ones([1, 4, 8, 8])).shape)
    [1, 4, 8, 8]
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
        impl: str = AUTO,
    ):
        super().__init__()
        if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f"a depthwise kernel has one odd size, got {kernel_size}", code="nn.bad-kernel-size")
        self.channels = self.in_channels = self.out_channels = self.groups = channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.dilation = dilation
        self.impl = check_implementation(impl)
        self.relu = False
        initializer = torch_uniform(kernel_size**2)
        self.weight = self.create_parameter([channels, 1, kernel_size, kernel_size], default_initializer=initializer)
        self.bias = self.create_parameter([channels], is_bias=True, default_initializer=initializer) if bias else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.stride == 1 and self.dilation == 1:
            return depthwise_conv2d(x, self.weight, self.bias, self.impl, self.relu)
        if self._is_faster_at_stride_1(x):
            y = depthwise_conv2d(x, self.written_out(), self.bias, self.impl, self.relu)
            return y[:, :, :: self.stride, :: self.stride]
        pad = self.dilation * (self.kernel_size // 2)
        y = F.conv2d(x, self.weight, self.bias, self.stride, pad, self.dilation, self.groups)
        return F.relu(y) if self.relu else y

    @property
    def extent(self) -> int:
        """Side of the kernel in pixels, the zeros of its dilation included."""
        return self.dilation * (self.kernel_size - 1) + 1

    def _is_faster_at_stride_1(self, x: paddle.Tensor) -> bool:
        impl = choose(x.dtype, self.extent, paddle.get_device()) if self.impl == AUTO else self.impl
        is_small = x.shape[2] * x.shape[3] <= MAX_SMALL_MAP
        return impl == CPU and paddle.in_dynamic_mode() and (self.extent >= MIN_EXTENT or is_small)

    def written_out(self) -> paddle.Tensor:
        """(C, 1, E, E): the kernel with the zeros of its dilation."""
        if self.dilation == 1:
            return self.weight
        spread = paddle.eye(self.extent, dtype=self.weight.dtype)[:: self.dilation]
        return paddle.matmul(paddle.matmul(spread, self.weight, transpose_x=True), spread)

    def with_bias(self) -> DepthwiseConv2D:
        """A new convolution of the same size that has a bias."""
        return DepthwiseConv2D(self.channels, self.kernel_size, self.stride, self.dilation, True, self.impl)

    def extra_repr(self) -> str:
        names = ("channels", "kernel_size", "stride", "dilation", "impl")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def rebuilt_with_bias(conv: nn.Layer) -> nn.Layer:
    """A new convolution like ``conv``, in its mode and dtype, with a bias."""
    fused = conv.with_bias()
    fused.training = conv.training
    return fused.to(dtype=conv.weight.dtype)


def set_implementation(model: nn.Layer, impl: str) -> int:
    """Make every :class:`DepthwiseConv2D` in ``model`` use ``impl``. Returns how many there are.

    Raises:
        UserError: unknown implementation, or one that cannot run here.
    """
    impl = check_implementation(impl)
    layers = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, DepthwiseConv2D)]
    for layer in layers:
        layer.impl = impl
    return len(layers)
