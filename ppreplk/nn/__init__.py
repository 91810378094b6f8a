"""Layers, fusion maths, and the surgery that merges and folds networks."""

from .surgery import fold, fuse_relu, layer_report, reparameterize

__all__ = ["fold", "fuse_relu", "layer_report", "reparameterize"]
