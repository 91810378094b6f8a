"""Reading weights from checkpoint files, converting them, and putting them into networks."""

from .apply import check_match, load_weights
from .convert import convert, load_checkpoint

__all__ = ["check_match", "convert", "load_checkpoint", "load_weights"]
