"""Operators: the depthwise convolution and its implementations."""

from . import compiled
from .compiled import load_ops
from .depthwise_conv import IMPLEMENTATIONS, depthwise_conv2d

__all__ = ["IMPLEMENTATIONS", "compiled", "depthwise_conv2d", "load_ops"]
