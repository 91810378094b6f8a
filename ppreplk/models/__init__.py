"""Architectures and the table that finds them by name."""

from . import replknet
from .registry import build_model, list_models
from .replknet import RepLKNet, RepLKNet31B, RepLKNet31L, RepLKNetXL

__all__ = ["RepLKNet", "RepLKNet31B", "RepLKNet31L", "RepLKNetXL", "build_model", "list_models", "replknet"]
