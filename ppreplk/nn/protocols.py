"""What a layer fulfils to take part in re-parameterization and folding."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Reparameterizable(Protocol):
    """A layer with parallel branches that one layer can replace. This is PaddleClas's protocol.

    ``is_repped`` says which form the layer is in. ``re_parameterize`` merges the branches, using running statistics;
    a second call changes nothing.
    """

    is_repped: bool

    def re_parameterize(self) -> None: ...


@runtime_checkable
class Foldable(Protocol):
    """A layer that owns batch normalizations and can absorb them into its convolutions or linear layers.

    ``fuse_bn`` is called after it has been called for every sublayer; a second call changes nothing. A layer folds
    what lies between its own sublayers, for example a batch normalization before a 1x1 convolution.
    """

    def fuse_bn(self) -> None: ...


@runtime_checkable
class ReluFusable(Protocol):
    """A layer that can make a ReLU part of the depthwise convolution before it, once that is merged and folded."""

    def fuse_relu(self) -> None: ...


class ConvLayer(Protocol):
    """What :class:`~ppreplk.nn.conv.Conv2D` and :class:`~ppreplk.nn.conv.DepthwiseConv2D` have in common.

    ``weight`` is (out_channels, in_channels / groups, K, K). ``bias`` is (out_channels,) or None. The padding keeps the
    map size at stride 1. ``relu`` says whether a ReLU follows inside the layer.
    """

    weight: Any
    bias: Any
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    dilation: int
    groups: int
    relu: bool

    def with_bias(self) -> Any:
        """A new convolution of the same kind and size that has a bias."""
