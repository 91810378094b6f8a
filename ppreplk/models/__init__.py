"""Architectures and the table that finds them by name."""

from . import mobilenet_v2, replknet
from .mobilenet_v2 import MobileNetV2, MobileNetV2LK
from .registry import build_model, list_models
from .replknet import RepLKNet, RepLKNet31B, RepLKNet31L, RepLKNetXL

__all__ = [
    "MobileNetV2",
    "MobileNetV2LK",
    "RepLKNet",
    "RepLKNet31B",
    "RepLKNet31L",
    "RepLKNetXL",
    "build_model",
    "list_models",
    "mobilenet_v2",
    "replknet",
]
