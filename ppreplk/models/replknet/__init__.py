"""RepLKNet: network, variants, checkpoint layouts, recognition."""

from .network import RepLKNet, RepLKNet31B, RepLKNet31L, RepLKNetXL

__all__ = ["RepLKNet", "RepLKNet31B", "RepLKNet31L", "RepLKNetXL"]
