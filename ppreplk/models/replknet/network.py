"""RepLKNet: a convolutional network with depthwise kernels up to 31x31 (Ding et al., CVPR 2022).

Paper: "Scaling Up Your Kernels to 31x31: Revisiting Large Kernel Design in CNNs", arXiv 2203.06717,
section 4.1 and figure 2. Parameter names are those of the official PyTorch code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Optional, Union

import numpy as np
import paddle
from paddle import nn

from ...nn import (
    ChannelAffine,
    DropPath,
    PreNormBlock,
    ReparamDepthwiseConv,
    batch_norm,
    bn_scale_shift,
    checkpointed,
    conv_bn,
    depthwise_conv_bn,
    fuse_bn_linear,
    torch_uniform,
)
from ...utils.errors import UserError
from .layer_ids import layer_ids, scale_learning_rates

MAX_LAYERS = 10_000  # more of them is a slip of the pen


def _bad(message: str) -> UserError:
    return UserError(message, code="models.bad-argument")


class RepLKBlock(PreNormBlock):
    """BN, 1x1, large depthwise kernel, 1x1, residual. (N, C, H, W) -> (N, C, H, W)."""

    pre_bn_name = "prelkb_bn"

    def __init__(
        self,
        channels: int,
        dw_channels: int,
        kernel_size: int,
        small_kernel: Optional[int],
        drop_path: float,
        merged: bool,
        depthwise_impl: str,
    ):
        super().__init__()
        self.prelkb_bn = batch_norm(channels)
        self.pw1 = conv_bn(channels, dw_channels, 1, activation="relu")
        self.large_kernel = ReparamDepthwiseConv(
            dw_channels, kernel_size, small_kernel, merged=merged, impl=depthwise_impl
        )
        self.lk_nonlinear = nn.ReLU()
        self.pw2 = conv_bn(dw_channels, channels, 1)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        out = self.prelkb_bn(x)
        out = self.pw1(out)
        out = self.lk_nonlinear(self.large_kernel(out))
        out = self.pw2(out)
        return x + self.drop_path(out)

    def fuse_relu(self) -> None:
        """Make the ReLU part of the large convolution, once that is merged."""
        if self.large_kernel.is_repped:
            self.large_kernel.lkb_reparam.relu = True
            self.lk_nonlinear = nn.Identity()


class ConvFFN(PreNormBlock):
    """BN, 1x1, GELU, 1x1, residual: a feed-forward network in convolutions. (N, C, H, W) -> (N, C, H, W)."""

    pre_bn_name = "preffn_bn"

    def __init__(self, channels: int, hidden_channels: int, drop_path: float):
        super().__init__()
        self.preffn_bn = batch_norm(channels)
        self.pw1 = conv_bn(channels, hidden_channels, 1)
        self.nonlinear = nn.GELU()
        self.pw2 = conv_bn(hidden_channels, channels, 1)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        out = self.preffn_bn(x)
        out = self.nonlinear(self.pw1(out))
        out = self.pw2(out)
        return x + self.drop_path(out)


class RepLKNetStage(nn.Layer):
    """Pairs of (RepLK block, ConvFFN) at one resolution. (N, C, H, W) -> (N, C, H, W).

    ``norm`` is not part of ``forward``: it normalizes the features handed to a downstream head.
    """

    def __init__(self, blocks: list[nn.Layer], channels: int, has_norm: bool, use_checkpoint: bool):
        super().__init__()
        self.blocks = nn.LayerList(blocks)
        self.has_norm = has_norm
        self.norm = batch_norm(channels) if has_norm else nn.Identity()
        self.is_fused = False
        self.use_checkpoint = use_checkpoint

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        for block in self.blocks:
            x = checkpointed(block, x) if self.use_checkpoint else block(x)
        return x

    def fuse_bn(self) -> None:
        """What follows ``norm`` is not ours to fold into: keep its affine map."""
        if self.has_norm and not self.is_fused:
            self.norm = ChannelAffine(*bn_scale_shift(self.norm), self.norm.weight.dtype)
        self.is_fused = True


class RepLKNet(nn.Layer):
    """RepLKNet as a classifier, or with ``out_indices`` as a backbone.

    Classifier: (N, in_channels, H, W) -> (N, class_num). Backbone: -> list of (N, C_i, H_i, W_i), at strides
    4, 8, 16, 32 for the four stages; ``feat_channels`` gives their widths.

    Args:
        large_kernel_sizes: odd depthwise kernel size of each stage.
        layers: (RepLK block, ConvFFN) pairs in each stage.
        channels: width of each stage.
        small_kernel: size of the parallel kernel merged away after training, or None.
        drop_path_rate: stochastic depth, rising linearly from 0 at the first pair to this at the last.
        dw_ratio: width of the depthwise layers relative to their stage.
        ffn_ratio: hidden width of the ConvFFN relative to its stage.
        in_channels: channels of the input images.
        class_num: classes; not used by a backbone.
        out_indices: stages whose output a backbone returns.
        norm_intermediate_features: batch-normalize those outputs (RepLKNet-XL downstream); backbone only.
        use_checkpoint: recompute activations in the backward pass to save memory.
        merged: build the merged form, whose large kernels have no parallel branch and no BN.
        layer_decay: if given, each parameter's learning rate is scaled by ``layer_decay ** (n + 1 - id)``
            through ``optimize_attr``, n + 1 being the id of the head; see :meth:`layer_ids`.
        layer_decay_by: what shares an id: groups of pairs, or whole stages (RepLKNet-XL's fine-tuning).
        depthwise_impl: implementation of the depthwise convolutions, see :func:`ppreplk.depthwise_conv2d`.

    Raises:
        UserError: arguments that do not describe a network.

    Source: paper section 4.1, figure 2; variants in its tables 5 and 6.

    >>> backbone = RepLKNet((9, 7), (1, 1), (8, 16), small_kernel=3, out_indices=[0, 1])
    >>> [list(feature.shape) for feature in backbone(paddle.zeros([1, 3, 64, 64]))]
    [[1, 8, 16, 16], [1, 16, 8, 8]]
    """

    def __init__(
        self,
        large_kernel_sizes: Sequence[int],
        layers: Sequence[int],
        channels: Sequence[int],
        small_kernel: Optional[int],
        drop_path_rate: float = 0.0,
        dw_ratio: float = 1.0,
        ffn_ratio: float = 4.0,
        in_channels: int = 3,
        class_num: int = 1000,
        out_indices: Optional[Sequence[int]] = None,
        norm_intermediate_features: bool = False,
        use_checkpoint: bool = False,
        merged: bool = False,
        layer_decay: Optional[float] = None,
        layer_decay_by: Literal["group", "stage"] = "group",
        depthwise_impl: str = "auto",
    ):
        super().__init__()
        stages = len(layers)
        if not 1 <= stages == len(channels) == len(large_kernel_sizes):
            raise _bad(
                "large_kernel_sizes, layers and channels need one entry per stage each, got "
                f"{list(large_kernel_sizes)}, {list(layers)} and {list(channels)}"
            )
        if min(layers) < 1 or min(channels) < 1:
            raise _bad(f"layers and channels must be positive, got {list(layers)} and {list(channels)}")
        if sum(layers) > MAX_LAYERS:
            raise _bad(f"layers must add up to at most {MAX_LAYERS}, got {list(layers)}")
        if in_channels < 1:
            raise _bad(f"in_channels must be positive, got {in_channels}")
        for name, ratio in {"dw_ratio": dw_ratio, "ffn_ratio": ffn_ratio}.items():
            if int(min(channels) * ratio) < 1:
                raise _bad(f"{name} {ratio} leaves no channels at a width of {min(channels)}")
        if not 0.0 <= drop_path_rate < 1.0:
            raise _bad(f"drop_path_rate must be at least 0 and below 1, got {drop_path_rate}")
        if layer_decay is not None and not 0.0 < layer_decay <= 1.0:
            raise _bad(f"layer_decay must be above 0 and at most 1, got {layer_decay}")
        if out_indices is None:
            if class_num < 1:
                raise _bad(f"class_num must be positive, got {class_num}")
            if norm_intermediate_features:
                raise _bad("norm_intermediate_features belongs to a backbone: give out_indices too")
        elif not out_indices or any(not 0 <= index < stages for index in out_indices):
            raise _bad(f"out_indices must name some of the stages 0 to {stages - 1}, got {list(out_indices)}")

        self.layers = list(layers)
        self.use_checkpoint = use_checkpoint
        self.is_fused = False
        self.out_indices = None if out_indices is None else sorted(set(out_indices))
        self.feat_channels = [channels[index] for index in self.out_indices or range(stages)]

        base = channels[0]
        self.stem = nn.Sequential(
            conv_bn(in_channels, base, 3, stride=2, activation="relu"),
            depthwise_conv_bn(base, 3, activation="relu", impl=depthwise_impl),
            conv_bn(base, base, 1, activation="relu"),
            depthwise_conv_bn(base, 3, stride=2, activation="relu", impl=depthwise_impl),
        )
        rates = iter(np.linspace(0.0, drop_path_rate, sum(layers)).tolist())
        self.stages = nn.LayerList()
        self.transitions = nn.LayerList()
        for index in range(stages):
            width = channels[index]
            blocks: list[nn.Layer] = []
            for _ in range(layers[index]):
                rate = next(rates)
                blocks.append(
                    RepLKBlock(
                        width,
                        int(width * dw_ratio),
                        large_kernel_sizes[index],
                        small_kernel,
                        rate,
                        merged,
                        depthwise_impl,
                    )
                )
                blocks.append(ConvFFN(width, int(width * ffn_ratio), rate))
            self.stages.append(RepLKNetStage(blocks, width, norm_intermediate_features, use_checkpoint))
            if index < stages - 1:
                following = channels[index + 1]
                self.transitions.append(
                    nn.Sequential(
                        conv_bn(width, following, 1, activation="relu"),
                        depthwise_conv_bn(following, 3, stride=2, activation="relu", impl=depthwise_impl),
                    )
                )
        if out_indices is None:
            self.norm = batch_norm(channels[-1])
            self.avgpool = nn.AdaptiveAvgPool2D(1)
            initializer = paddle.ParamAttr(initializer=torch_uniform(channels[-1]))
            self.head = nn.Linear(channels[-1], class_num, weight_attr=initializer, bias_attr=initializer)
        if layer_decay is not None:
            scale_learning_rates(self, layer_decay, layer_decay_by)

    def forward(self, x: paddle.Tensor) -> Union[paddle.Tensor, list[paddle.Tensor]]:
        if self.out_indices is not None:
            features = self.forward_stages(x)
            return [self.stages[index].norm(features[index]) for index in self.out_indices]
        x = self.norm(self.forward_features(x))
        return self.head(self.avgpool(x).flatten(1))

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """The output of the last stage, before ``norm``: (N, C, H/32, W/32) with four stages."""
        return self.forward_stages(x)[-1]

    def forward_stages(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """The output of every stage, without the stages' ``norm``."""
        x = self.stem[0](x)
        for layer in self.stem[1:]:
            x = checkpointed(layer, x) if self.use_checkpoint else layer(x)
        features = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            features.append(x)
            if index < len(self.transitions):
                x = self.transitions[index](x)
        return features

    def in_order(self) -> Iterator[nn.Layer]:
        """Layers of the stem, blocks, and layers of the transitions, in the order of execution."""
        yield from self.stem
        for index, stage in enumerate(self.stages):
            yield from stage.blocks
            if index < len(self.transitions):
                yield from self.transitions[index]

    def fuse_bn(self) -> None:
        """Fold the last BN through the average pool into the head."""
        if self.out_indices is None and not self.is_fused:
            fuse_bn_linear(self.norm, self.head)
            self.norm = nn.Identity()
        self.is_fused = True

    def layer_ids(self, by: Literal["group", "stage"] = "group") -> dict[str, int]:
        """{parameter name: id} for layer-wise learning-rate decay, see :func:`.layer_ids.layer_ids`."""
        return layer_ids(self, by)
