"""``ppreplk.complexity``: parameters and multiply-adds, see :mod:`ppreplk.analysis.counting`."""

from .analysis.counting import Complexity, count, count_by_part

__all__ = ["Complexity", "count", "count_by_part"]
