"""Reading weights from checkpoint files, and putting them into networks."""

from .apply import check_match, load_weights
from .files import load_checkpoint

__all__ = ["check_match", "load_checkpoint", "load_weights"]
