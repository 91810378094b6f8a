"""``ppreplk.optim``: optimizers, schedules and layer ids, see :mod:`ppreplk.training.optimizers`."""

from .training.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    AdamW,
    ConstLR,
    Cosine,
    Linear,
    Momentum,
    MultiStepDecay,
    layer_ids,
)

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
