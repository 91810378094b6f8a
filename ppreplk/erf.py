"""``ppreplk.erf``: effective receptive fields, see :mod:`ppreplk.analysis.receptive_field`."""

from .analysis.receptive_field import (
    SHARES,
    contribution_map,
    high_contribution_area,
    last_features,
    mean_contribution_map,
    scaled_scores,
)

__all__ = [
    "SHARES",
    "contribution_map",
    "high_contribution_area",
    "last_features",
    "mean_contribution_map",
    "scaled_scores",
]
