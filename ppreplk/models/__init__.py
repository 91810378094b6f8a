"""Architectures and the table that finds them by name."""

from . import mobilenet_v2, replknet
from .mobilenet_v2 import MobileNetV2, MobileNetV2LK
from .registry import (
    Architecture,
    Layout,
    Recognised,
    architecture_of,
    build_model,
    find_model,
    graph_of,
    layer_ids,
    list_models,
    recognise,
    register,
)
from .replknet import RepLKNet, RepLKNet31B, RepLKNet31L, RepLKNetXL

__all__ = [
    "Architecture",
    "Layout",
    "MobileNetV2",
    "MobileNetV2LK",
    "Recognised",
    "RepLKNet",
    "RepLKNet31B",
    "RepLKNet31L",
    "RepLKNetXL",
    "architecture_of",
    "build_model",
    "find_model",
    "graph_of",
    "layer_ids",
    "list_models",
    "mobilenet_v2",
    "recognise",
    "register",
    "replknet",
]
