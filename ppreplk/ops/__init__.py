"""Operators: the depthwise convolution and its implementations, and the layers of channels-last programs."""

from .depthwise import IMPLEMENTATIONS, depthwise_conv2d
from .loading import load_ops

__all__ = ["IMPLEMENTATIONS", "depthwise_conv2d", "load_ops"]
