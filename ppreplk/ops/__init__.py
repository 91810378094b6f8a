"""Operators: the depthwise convolution and its implementations, and the other layers of fast programs."""

from . import cpu as compiled
from . import onednn as dense
from .depthwise import IMPLEMENTATIONS, depthwise_conv2d
from .loading import load_ops

__all__ = ["IMPLEMENTATIONS", "compiled", "dense", "depthwise_conv2d", "load_ops"]
