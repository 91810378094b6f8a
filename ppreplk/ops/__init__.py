"""Operators: the depthwise convolution and its implementations, and the layers of channels-last programs.

The names below are imported when they are used: ``compiler.py`` has to run without Paddle.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .depthwise import IMPLEMENTATIONS, depthwise_conv2d
    from .loading import load_ops

__all__ = ["IMPLEMENTATIONS", "depthwise_conv2d", "load_ops"]

_HOMES = {"IMPLEMENTATIONS": "depthwise", "depthwise_conv2d": "depthwise", "load_ops": "loading"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
