"""Layers, fusion maths, and the surgery that merges and folds networks."""

from .blocks import ConvBN, DropPath, PreNormBlock, checkpointed, conv_bn, depthwise_conv_bn
from .conv import Conv2D, DepthwiseConv2D, set_implementation, torch_uniform
from .norm import ChannelAffine, batch_norm, bn_scale_shift, eval_mode, fuse_bn_linear, to_numpy
from .reparam_conv import ReparamDepthwiseConv
from .surgery import LayerDifference, fold, fuse_relu, layer_report, reparameterize

__all__ = [
    "ChannelAffine",
    "Conv2D",
    "ConvBN",
    "DepthwiseConv2D",
    "DropPath",
    "LayerDifference",
    "PreNormBlock",
    "ReparamDepthwiseConv",
    "batch_norm",
    "bn_scale_shift",
    "checkpointed",
    "conv_bn",
    "depthwise_conv_bn",
    "eval_mode",
    "fold",
    "fuse_bn_linear",
    "fuse_relu",
    "layer_report",
    "reparameterize",
    "set_implementation",
    "to_numpy",
    "torch_uniform",
]
