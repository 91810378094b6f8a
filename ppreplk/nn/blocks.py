"""Building blocks of the architectures: conv + BN, pre-norm residual blocks, drop path, recomputation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from ..utils.distributed import processes
from ..utils.errors import UserError
from ..utils.paddle_version import is_before
from . import fusion
from .conv import Conv2D, DepthwiseConv2D, rebuilt_with_bias
from .norm import batch_norm, bn_scale_shift, set_weight_bias, to_numpy


class DropPath(nn.Layer):
    """Stochastic depth. In training, zero whole samples with probability ``rate`` and rescale the others.

    (N, ...) -> (N, ...). Identity in eval mode.

    >>> drop_path = DropPath(0.5)
    >>> sorted(set(drop_path(paddle.ones([100, 1])).flatten().tolist()))
    [0.0, 2.0]
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not self.training or self.rate == 0.0:
            return x
        return x * self.factors([x.shape[0]] + [1] * (len(x.shape) - 1), x.dtype)

    def factors(self, shape: list[int], dtype: paddle.dtype) -> paddle.Tensor:
        """Draw what samples are multiplied with in training: 0 or 1 / (1 - rate)."""
        keep = 1.0 - self.rate
        return (paddle.rand(shape) < keep).astype(dtype) / keep

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


ACTIVATIONS: dict[str | None, Callable[[], nn.Layer]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, None: nn.Identity}


class ConvBN(nn.Layer):
    """Convolution, batch normalization, activation. (N, in, H, W) -> (N, out, H', W').

    The sublayers are called ``conv`` and ``bn``, as in the official network. ``fuse_bn`` replaces them by one
    convolution with bias; ``is_fused`` says which form this is.

    Args:
        conv: :class:`Conv2D` or :class:`DepthwiseConv2D` without bias.
        activation: ``"relu"``, ``"relu6"`` or None.

    >>> layer = ConvBN(Conv2D(3, 8, kernel_size=3, stride=2), activation="relu")
    >>> list(layer(paddle.ones([1, 3, 8, 8])).shape)
    [1, 8, 4, 4]
    """

    def __init__(self, conv: nn.Layer, activation: str | None = None):
        super().__init__()
        self.conv = conv
        self.bn = batch_norm(conv.out_channels)
        self.nonlinear = ACTIVATIONS[activation]()
        self.is_fused = False

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.conv(x)
        return self.nonlinear(x if self.is_fused else self.bn(x))

    def fused_weight_bias(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias, float64, of the one convolution that equals this layer in inference."""
        if self.is_fused:
            return to_numpy(self.conv.weight).astype(np.float64), to_numpy(self.conv.bias).astype(np.float64)
        return fusion.scale_conv_output(to_numpy(self.conv.weight), None, *bn_scale_shift(self.bn))

    def fuse_bn(self, input_bn: nn.Layer | None = None) -> None:
        """Absorb ``bn``, and ``input_bn`` where one stands directly before a 1x1 convolution."""
        weight, bias = self.fused_weight_bias()
        if input_bn is not None:
            weight, bias = fusion.scale_conv_input(weight, bias, *bn_scale_shift(input_bn))
        if not self.is_fused:
            self.conv = rebuilt_with_bias(self.conv)
            del self.bn
            self.is_fused = True
        set_weight_bias(self.conv, weight, bias)

    def fuse_relu(self) -> None:
        """Make the ReLU part of a depthwise convolution, once that has absorbed ``bn``."""
        if self.is_fused and isinstance(self.conv, DepthwiseConv2D) and isinstance(self.nonlinear, nn.ReLU):
            self.conv.relu = True
            self.nonlinear = nn.Identity()


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    activation: str | None = None,
) -> ConvBN:
    """Convolution with padding ``kernel_size // 2``, batch normalization and activation."""
    return ConvBN(Conv2D(in_channels, out_channels, kernel_size, stride), activation)


def depthwise_conv_bn(
    channels: int,
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
    activation: str | None = None,
    impl: str = "auto",
) -> ConvBN:
    """Depthwise convolution, batch normalization and activation."""
    return ConvBN(DepthwiseConv2D(channels, kernel_size, stride, dilation, impl=impl), activation)


class PreNormBlock(nn.Layer):
    """A residual block that starts with a batch normalization and the 1x1 convolution ``pw1``.

    ``fuse_bn`` folds the first into the second; ``is_fused`` says which form this is. The two official block types
    name their normalization differently: ``pre_bn_name`` says how.
    """

    pre_bn_name: str
    pw1: ConvBN

    def __init__(self) -> None:
        super().__init__()
        self.is_fused = False

    def fuse_bn(self) -> None:
        if not self.is_fused:
            self.pw1.fuse_bn(input_bn=getattr(self, self.pre_bn_name))
            setattr(self, self.pre_bn_name, nn.Identity())
            self.is_fused = True


def checkpointed(layer: nn.Layer, x: paddle.Tensor) -> paddle.Tensor:
    """``layer(x)``, its activations recomputed in the backward pass instead of kept.

    Running statistics are updated in the first pass alone, so once per step, as without recomputation. The
    recomputation is not reentrant: under ``DataParallel`` a reentrant one marks a parameter ready twice. Paddle before
    3.3 crashes where such a recomputation meets batch normalization, so there it is reentrant, for one process.

    Raises:
        UserError: Paddle before 3.3, and several processes.
    """
    if not layer.training or not paddle.is_grad_enabled():
        return layer(x)
    reentrant = is_before(paddle.__version__, (3, 3))
    if reentrant and processes() > 1:
        raise UserError(
            f"recomputation in several processes needs Paddle 3.3 or newer, here is {paddle.__version__}; "
            "leave out Arch.use_checkpoint, or update Paddle",
            code="nn.recomputation",
        )
    if reentrant and x.stop_gradient:
        return layer(x)  # a reentrant recomputation would give its parameters no gradients
    passes = 0

    def run(x: paddle.Tensor) -> paddle.Tensor:
        nonlocal passes
        passes += 1
        if passes == 1:
            return layer(x)
        statistics = [(tensor, tensor.clone()) for tensor in layer.parameters() if tensor.stop_gradient]
        out = layer(x)
        for tensor, value in statistics:
            tensor.set_value(value)
        return out

    return recompute(run, x, use_reentrant=reentrant)
