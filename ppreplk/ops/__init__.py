"""Operators: the depthwise convolution and its implementations."""

from .compiled import load_ops
from .depthwise_conv import IMPLEMENTATIONS, depthwise_conv2d

__all__ = ["IMPLEMENTATIONS", "depthwise_conv2d", "load_ops"]
