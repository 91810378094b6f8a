"""Building blocks shared by the architectures: conv + BN, drop path, the re-parameterizable depthwise layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ..ops.depthwise import AUTO, check_implementation, choose, depthwise_conv2d
from ..utils.errors import UserError
from . import fusion

BN_EPSILON = 1e-5
BN_MOMENTUM = 0.9  # Paddle counts the share that is kept; PyTorch's 0.1 is the share that is replaced


def batch_norm(channels: int) -> nn.BatchNorm2D:
    """The batch normalization used everywhere here: (N, C, H, W) -> (N, C, H, W)."""
    return nn.BatchNorm2D(channels, momentum=BN_MOMENTUM, epsilon=BN_EPSILON)


def bn_scale_shift(bn: nn.Layer) -> tuple[np.ndarray, np.ndarray]:
    """``scale`` and ``shift``, (C,) float64, of a :func:`batch_norm` on its running statistics, in any mode."""
    gamma, beta, mean, variance = (to_numpy(t) for t in (bn.weight, bn.bias, bn._mean, bn._variance))
    return fusion.bn_scale_shift(gamma, beta, mean, variance, BN_EPSILON)


def to_numpy(tensor: paddle.Tensor) -> np.ndarray:
    """A float32 array: numpy has no bfloat16, and fusion wants more than half precision anyway."""
    return tensor.astype("float32").numpy()


def torch_uniform(fan_in: int) -> nn.initializer.Uniform:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for conv and linear layers, weight and bias."""
    bound = fan_in**-0.5
    return nn.initializer.Uniform(-bound, bound)


class DropPath(nn.Layer):
    """Stochastic depth: in training, zero whole samples with probability ``rate`` and rescale the others.

    (N, ...) -> (N, ...). Identity in eval mode.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = (paddle.rand([x.shape[0]] + [1] * (len(x.shape) - 1)) < keep).astype(x.dtype)
        return x * (mask / keep)

    def extra_repr(self):
        return f"rate={self.rate}"


class DenseConv2D(nn.Conv2D):
    """``nn.Conv2D`` with square kernels, PyTorch's initialization and its hyperparameters kept readable.

    (N, in, H, W) -> (N, out, H', W').
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, groups=1, bias=False):
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
        self.hyperparameters = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel_size": kernel_size,
            "stride": stride,
            "groups": groups,
        }

    @property
    def groups(self) -> int:
        return self.hyperparameters["groups"]


# Extents from which, and pixels up to which, a strided or dilated kernel is faster as a dense one of stride 1 through
# the compiled operator than through Paddle's. Measured with stride 2, forward and backward.
DENSE_FROM = 5
SMALL_MAP = 14 * 14


class DepthwiseConv2D(nn.Layer):
    """Depthwise convolution, (N, C, H, W) -> (N, C, ceil(H/stride), ceil(W/stride)).

    Padding is ``dilation * (kernel_size // 2)``. With stride 1 and dilation 1 the work goes to
    :func:`ppreplk.depthwise_conv2d`. So it does in the other cases where that picks the compiled operator and it is
    the faster one even so, the dilated kernel written out with its zeros and every ``stride``-th output kept;
    otherwise they are Paddle's own operator. ``relu`` says whether a ReLU that followed has been made part of this
    layer, see :func:`ppreplk.nn.fuse_relu`.

    Args:
        channels: C.
        kernel_size: odd K; the weight is (C, 1, K, K).
        stride, dilation: of the convolution.
        bias: whether there is a (C,) bias.
        impl: implementation for the stride-1 case, see :func:`ppreplk.depthwise_conv2d`.

    Raises:
        UserError: even kernel size, unknown implementation.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
        impl: str = "auto",
    ):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f"depthwise kernels must have an odd size, got {kernel_size}")
        self.hyperparameters = {
            "channels": channels,
            "kernel_size": kernel_size,
            "stride": stride,
            "dilation": dilation,
            "impl": check_implementation(impl),
        }
        self.relu = False
        self.weight = self.create_parameter(
            [channels, 1, kernel_size, kernel_size], default_initializer=torch_uniform(kernel_size**2)
        )
        self.bias = (
            self.create_parameter([channels], is_bias=True, default_initializer=torch_uniform(kernel_size**2))
            if bias
            else None
        )

    @property
    def groups(self) -> int:
        """As many as channels."""
        return self.hyperparameters["channels"]

    def forward(self, x):
        own = self.hyperparameters
        if own["stride"] == 1 and own["dilation"] == 1:
            return depthwise_conv2d(x, self.weight, self.bias, own["impl"], self.relu)
        if self._compiled_is_faster(x):
            y = depthwise_conv2d(x, self._dense_weight(), self.bias, own["impl"], self.relu)
            return y[:, :, :: own["stride"], :: own["stride"]]
        padding = own["dilation"] * (own["kernel_size"] // 2)
        y = F.conv2d(x, self.weight, self.bias, own["stride"], padding, own["dilation"], own["channels"])
        return F.relu(y) if self.relu else y

    def _extent(self) -> int:
        own = self.hyperparameters
        return own["dilation"] * (own["kernel_size"] - 1) + 1

    def _compiled_is_faster(self, x: paddle.Tensor) -> bool:
        impl, extent = self.hyperparameters["impl"], self._extent()
        if impl == AUTO:
            impl = choose(x.dtype, extent, paddle.get_device())
        small = x.shape[2] * x.shape[3] <= SMALL_MAP
        return impl == "compiled" and paddle.in_dynamic_mode() and (extent >= DENSE_FROM or small)

    def _dense_weight(self) -> paddle.Tensor:
        """(C, 1, E, E): the kernel with the zeros of its dilation."""
        dilation, extent = self.hyperparameters["dilation"], self._extent()
        if dilation == 1:
            return self.weight
        spread = paddle.eye(extent, dtype=self.weight.dtype)[::dilation]
        return paddle.matmul(paddle.matmul(spread, self.weight, transpose_x=True), spread)

    def extra_repr(self):
        return ", ".join(f"{name}={value}" for name, value in self.hyperparameters.items())


def set_implementation(model: nn.Layer, impl: str) -> int:
    """Make every :class:`DepthwiseConv2D` in ``model`` use ``impl``; returns how many there are.

    Raises:
        UserError: unknown implementation, or one that cannot run here.
    """
    check_implementation(impl)
    layers = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, DepthwiseConv2D)]
    for layer in layers:
        layer.hyperparameters["impl"] = impl
    return len(layers)


ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, None: nn.Identity}


class ConvBN(nn.Layer):
    """Convolution, batch normalization, activation. (N, in, H, W) -> (N, out, H', W').

    The sublayers are called ``conv`` and ``bn``, as in the official network. ``fuse_bn`` replaces them by
    one convolution with bias; ``is_fused`` says which form this is.

    Args:
        conv: :class:`DenseConv2D` or :class:`DepthwiseConv2D` without bias.
        out_channels: channels of its output.
        activation: ``"relu"``, ``"relu6"`` or None.
    """

    def __init__(self, conv: nn.Layer, out_channels: int, activation: str | None = None):
        super().__init__()
        self.conv = conv
        self.bn = batch_norm(out_channels)
        self.nonlinear = ACTIVATIONS[activation]()
        self.is_fused = False

    def forward(self, x):
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


def rebuilt_with_bias(conv: nn.Layer) -> nn.Layer:
    """A new convolution of the same kind, hyperparameters and dtype, with a bias."""
    fused = type(conv)(**conv.hyperparameters, bias=True)
    fused.training = conv.training
    return fused.astype(conv.weight.dtype)


def set_weight_bias(layer: nn.Layer, weight: np.ndarray, bias: np.ndarray) -> None:
    """Overwrite the parameters of ``layer``, rounding to its dtype."""
    for parameter, value in ((layer.weight, weight), (layer.bias, bias)):
        parameter.set_value(paddle.to_tensor(value.astype(np.float32)).astype(parameter.dtype))


class PreNormBlock(nn.Layer):
    """A residual block that starts with a batch normalization and the 1x1 convolution ``pw1``.

    ``fuse_bn`` folds the first into the second; ``is_fused`` says which form this is. The two official
    block types name their normalization differently: ``pre_bn_name`` says how.
    """

    pre_bn_name: str

    def __init__(self):
        super().__init__()
        self.is_fused = False

    def fuse_bn(self) -> None:
        if not self.is_fused:
            self.pw1.fuse_bn(input_bn=getattr(self, self.pre_bn_name))
            setattr(self, self.pre_bn_name, nn.Identity())
            self.is_fused = True


def fuse_bn_linear(bn: nn.Layer, linear: nn.Linear) -> None:
    """Absorb a :func:`batch_norm` that stands before ``linear``, an average pool between them or not."""
    weight, bias = to_numpy(linear.weight), to_numpy(linear.bias)
    set_weight_bias(linear, *fusion.scale_linear_input(weight, bias, *bn_scale_shift(bn)))


@contextmanager
def eval_mode(model: nn.Layer) -> Iterator[None]:
    """Eval mode inside the block; afterwards every sublayer is in the mode it was in."""
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    activation: str | None = None,
) -> ConvBN:
    """Dense convolution with padding ``kernel_size // 2``, batch normalization and activation."""
    return ConvBN(DenseConv2D(in_channels, out_channels, kernel_size, stride), out_channels, activation)


def depthwise_conv_bn(
    channels: int,
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
    activation: str | None = None,
    impl: str = "auto",
) -> ConvBN:
    """Depthwise convolution, batch normalization and activation."""
    return ConvBN(DepthwiseConv2D(channels, kernel_size, stride, dilation, impl=impl), channels, activation)


class ReparamDepthwiseConv(nn.Layer):
    """A large depthwise kernel trained with a parallel small one (paper section 3.1, guideline 3).

    Train form: ``lkb_origin`` (conv + BN) plus, where ``small_kernel`` is given, ``small_conv`` (conv + BN),
    summed. Merged form: ``lkb_reparam``, one convolution with bias. ``is_repped`` says which form this is.
    (N, C, H, W) -> (N, C, ceil(H/stride), ceil(W/stride)).

    Args:
        channels: C.
        kernel_size: odd size of the large kernel.
        small_kernel: odd size of the parallel kernel, at most ``kernel_size``, or None for no second branch.
        stride, dilation: of both branches.
        merged: build the merged form.
        impl: see :func:`ppreplk.depthwise_conv2d`.

    Raises:
        UserError: a small kernel larger than the large one, of even size, or beside a dilated kernel
            (whose taps it would not meet).
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
        if small_kernel is not None:
            if small_kernel > kernel_size:
                raise UserError(f"small_kernel {small_kernel} is larger than kernel_size {kernel_size}")
            if dilation != 1:
                raise UserError(f"a parallel small kernel needs dilation 1, got dilation {dilation}")
        self.hyperparameters = {
            "channels": channels,
            "kernel_size": kernel_size,
            "stride": stride,
            "dilation": dilation,
            "impl": impl,
        }
        self.small_kernel = small_kernel
        self.is_repped = merged
        if merged:
            self.lkb_reparam = DepthwiseConv2D(**self.hyperparameters, bias=True)
        else:
            self.lkb_origin = depthwise_conv_bn(**self.hyperparameters)
            if small_kernel is not None:
                self.small_conv = depthwise_conv_bn(channels, small_kernel, stride, impl=impl)

    def forward(self, x):
        if self.is_repped:
            return self.lkb_reparam(x)
        if self.small_kernel is None:
            return self.lkb_origin(x)
        return self.lkb_origin(x) + self.small_conv(x)

    def merged_weight_bias(self) -> tuple[np.ndarray, np.ndarray]:
        """(C, 1, K, K) and (C,), float64: the convolution that equals both branches on running statistics."""
        weight, bias = self.lkb_origin.fused_weight_bias()
        if self.small_kernel is not None:
            small_weight, small_bias = self.small_conv.fused_weight_bias()
            weight = weight + fusion.pad_kernel(small_weight, self.hyperparameters["kernel_size"])
            bias = bias + small_bias
        return weight, bias

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


class ChannelAffine(nn.Layer):
    """``scale * x + shift`` per channel: what is left of a batch normalization that nothing can absorb.

    (N, C, H, W) -> (N, C, H, W).
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
