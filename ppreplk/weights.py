"""``ppreplk.weights``: reading, converting and loading checkpoints, see :mod:`ppreplk.checkpoints`."""

from .checkpoints.apply import check_match, load_weights
from .checkpoints.convert import convert, load_checkpoint

__all__ = ["check_match", "convert", "load_checkpoint", "load_weights"]
