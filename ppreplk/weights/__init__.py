"""Reading weights from checkpoint files, and putting them into networks."""

from .apply import load_weights, report_mismatch
from .files import load_checkpoint

__all__ = ["load_checkpoint", "load_weights", "report_mismatch"]
