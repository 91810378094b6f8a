"""MobileNetV2 with large depthwise kernels: the network that the paper tests its guidelines on.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2, with the changes of
Ding et al., CVPR 2022, section 3 and tables 2, 3, 4 and 11. No official code of these variants exists: parameter
names are ours, those inside the depthwise layers are RepLKNet's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import paddle
from paddle import nn

from ..nn import ConvBN, ReparamDepthwiseConv, conv_bn, torch_uniform
from ..nn.graph import Graph
from ..utils.errors import UserError
from .registry import Architecture, register

STEM_CHANNELS = 32
# Expansion, channels and blocks of each stage; strides of the stem and of the first block of each.
STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
STRIDES = (2, 1, 2, 2, 2, 1, 2, 1)
FEATURES = 1280
BLOCKS = sum(blocks for _, _, blocks in STAGES)
PLAIN_KERNEL = 3
DIVISOR = 8
BAD_ARGUMENT = "models.bad-argument"


class InvertedResidual(nn.Layer):
    """1x1, depthwise, 1x1, residual where the shape allows. (N, in, H, W) -> (N, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, shortcut: bool, depthwise: dict[str, Any]):
        super().__init__()
        hidden = in_channels * expansion
        expands = expansion != 1
        self.expand = conv_bn(in_channels, hidden, 1, activation="relu6") if expands else nn.Identity()
        self.depthwise = ReparamDepthwiseConv(hidden, **depthwise)
        self.nonlinear = nn.ReLU6()
        self.project = conv_bn(hidden, out_channels, 1)
        self.shortcut = shortcut and depthwise["stride"] == 1 and in_channels == out_channels

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        out = self.expand(x)
        out = self.nonlinear(self.depthwise(out))
        out = self.project(out)
        return x + out if self.shortcut else out


class MobileNetV2(nn.Layer):
    """MobileNetV2 as a classifier, (N, in_channels, H, W) -> (N, class_num).

    The 17 blocks are numbered 0 to 16. Those of ``large_kernel_blocks`` get ``kernel_size``, ``small_kernel`` and
    ``dilation``; the others keep plain 3x3 depthwise kernels.

    Args:
        kernel_size: odd depthwise kernel size.
        large_kernel_blocks: numbers of the blocks that get it; None for all, those of stride 2 too.
        small_kernel: size of the parallel kernel merged away after training, or None.
        dilation: of the depthwise kernels; the padding grows with it.
        shortcut: whether blocks have their identity shortcut.
        width: multiplies all channels, which are rounded to multiples of 8.
        strides: of the stem and of the first block of each of the seven stages.
        in_channels: channels of the input images.
        class_num: classes.
        merged: build the merged form, whose depthwise layers have no parallel branch and no BN.
        depthwise_impl: implementation of the depthwise convolutions, see :func:`ppreplk.depthwise_conv2d`.

    Raises:
        UserError: arguments that do not describe a network.

    >>> model = MobileNetV2(kernel_size=13, small_kernel=3, width=0.25, class_num=10)
    >>> list(model(paddle.ones([1, 3, 64, 64])).shape)
    [1, 10]
    """

    def __init__(
        self,
        kernel_size: int = 3,
        large_kernel_blocks: Optional[Sequence[int]] = None,
        small_kernel: Optional[int] = None,
        dilation: int = 1,
        shortcut: bool = True,
        width: float = 1.0,
        strides: Sequence[int] = STRIDES,
        in_channels: int = 3,
        class_num: int = 1000,
        merged: bool = False,
        depthwise_impl: str = "auto",
    ):
        super().__init__()
        chosen = set(range(BLOCKS) if large_kernel_blocks is None else large_kernel_blocks)
        if not chosen <= set(range(BLOCKS)):
            raise UserError(
                f"large_kernel_blocks must lie between 0 and {BLOCKS - 1}, got {sorted(chosen)}", code=BAD_ARGUMENT
            )
        if len(strides) != len(STRIDES) or min(strides) < 1:
            raise UserError(
                f"strides needs {len(STRIDES)} positive entries, stem and stages, got {list(strides)}",
                code=BAD_ARGUMENT,
            )
        positive = {"width": width, "dilation": dilation, "in_channels": in_channels, "class_num": class_num}
        for name, value in positive.items():
            if value <= 0:
                raise UserError(f"{name} must be positive, got {value}", code=BAD_ARGUMENT)
        large = {"kernel_size": kernel_size, "small_kernel": small_kernel, "dilation": dilation}

        channels = scaled(STEM_CHANNELS, width)
        self.stem = conv_bn(in_channels, channels, 3, stride=strides[0], activation="relu6")
        self.stages = nn.LayerList()
        number = 0
        for (expansion, stage_channels, blocks), stage_stride in zip(STAGES, strides[1:]):
            out_channels = scaled(stage_channels, width)
            stage = nn.Sequential()
            for index in range(blocks):
                depthwise: dict[str, Any] = dict(large) if number in chosen else {"kernel_size": PLAIN_KERNEL}
                stride = stage_stride if index == 0 else 1
                depthwise.update(stride=stride, merged=merged, impl=depthwise_impl)
                stage.append(InvertedResidual(channels, out_channels, expansion, shortcut, depthwise))
                channels = out_channels
                number += 1
            self.stages.append(stage)
        features = max(FEATURES, scaled(FEATURES, width))  # a narrow network keeps its full last layer
        self.last = conv_bn(channels, features, 1, activation="relu6")
        self.avgpool = nn.AdaptiveAvgPool2D(1)
        initializer = paddle.ParamAttr(initializer=torch_uniform(features))
        self.head = nn.Linear(features, class_num, weight_attr=initializer, bias_attr=initializer)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.avgpool(self.forward_features(x)).flatten(1))

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """What is pooled: (N, 1280, H/32, W/32) with the usual strides and a width of at most 1."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.last(x)


def scaled(channels: int, width: float) -> int:
    """``channels * width`` rounded to a multiple of 8, and never down by more than a tenth.

    >>> scaled(24, 0.75), scaled(16, 0.7)
    (24, 16)
    """
    rounded = max(DIVISOR, int(channels * width + DIVISOR / 2) // DIVISOR * DIVISOR)
    return rounded + DIVISOR if rounded < 0.9 * channels * width else rounded


def graph(network: MobileNetV2) -> Graph:
    """The classifier, in the form it is in."""
    description = Graph()
    x = description.conv_bn(description.images, network.stem)
    for stage in network.stages:
        for block in stage:
            y = description.conv_bn(x, block.expand) if isinstance(block.expand, ConvBN) else x
            y = description.activation(description.reparam_conv(y, block.depthwise), block.nonlinear)
            y = description.conv_bn(y, block.project)
            x = description.add(x, y) if block.shortcut else y
    x = description.conv_bn(x, network.last)
    description.linear(description.pool(x), network.head)
    return description


# Weights do not tell the dilation, nor whether there are shortcuts: nothing recognises this network from them.
MOBILENET_V2 = register(
    Architecture(
        name="MobileNetV2",
        network=MobileNetV2,
        variants={"MobileNetV2LK": {}},
        graph=graph,
        stem="stem.conv.weight",
    )
)


def MobileNetV2LK(**kwargs: Any) -> MobileNetV2:
    """MobileNetV2 with any depthwise kernel, by default the plain 3x3 network: 3.5M parameters.

    LK stands for large kernels; ``MobileNetV2`` is the name of paddleclas's own network.

    >>> network = MobileNetV2LK(kernel_size=9, small_kernel=3, class_num=10)
    >>> list(network(paddle.zeros([1, 3, 64, 64])).shape)
    [1, 10]
    """
    return MobileNetV2(**kwargs)
