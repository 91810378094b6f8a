"""RepLKNet: network, variants, checkpoint layouts, recognition, layer ids, graph."""

from .network import RepLKNet
from .variants import REPLKNET, VARIANTS, RepLKNet31B, RepLKNet31L, RepLKNetXL

__all__ = ["REPLKNET", "VARIANTS", "RepLKNet", "RepLKNet31B", "RepLKNet31L", "RepLKNetXL"]
