"""Optimizers, learning-rate schedules and layer ids, for scripts.

They live in :mod:`ppreplk.training.optimizers` and :mod:`ppreplk.training.schedules`.
"""

from .models.registry import layer_ids
from .training.optimizers import OPTIMIZERS, AdamW, Momentum
from .training.schedules import SCHEDULES, ConstLR, Cosine, Linear, MultiStepDecay

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "AdamW",
    "ConstLR",
    "Cosine",
    "Linear",
    "Momentum",
    "MultiStepDecay",
    "layer_ids",
]
