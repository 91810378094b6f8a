"""``ppreplk.weights``: reading, converting and loading checkpoints, see :mod:`ppreplk.checkpoints`."""

from .checkpoints import check_match, convert, load_checkpoint, load_weights

__all__ = ["check_match", "convert", "load_checkpoint", "load_weights"]
