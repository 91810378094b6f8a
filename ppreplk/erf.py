"""Effective receptive field: how much each input pixel contributes to the centre of the last feature map.

Paper section 5 and table 10, with the definitions of the official analysis scripts.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn

from .errors import UserError
from .layers import eval_mode


def contribution_map(model: nn.Layer, images: paddle.Tensor) -> np.ndarray:
    """Contribution of every input pixel to the central point of the last stage's output.

    The central activations of all channels, rectified and summed, are differentiated with respect to the
    input; the rectified gradient is summed over batch and channels. Eval mode is used whatever mode the
    model is in, and restored.

    Args:
        model: a network with ``forward_features``: (N, C, H, W) -> (N, D, h, w).
        images: (N, C, H, W).

    Returns:
        (H, W) float32, not averaged over N.

    Raises:
        UserError: the model has no ``forward_features``.
    """
    if not hasattr(model, "forward_features"):
        raise UserError(f"{type(model).__name__} has no forward_features: its last feature map cannot be reached")
    images = images.detach()
    images.stop_gradient = False
    with eval_mode(model):
        features = model.forward_features(images)
        height, width = features.shape[2:]
        centre = nn.functional.relu(features[:, :, height // 2, width // 2]).sum()
        (gradient,) = paddle.grad(centre, images)
    return nn.functional.relu(gradient).sum(axis=[0, 1]).numpy()


def high_contribution_area(contributions: np.ndarray, share: float) -> tuple[int, float]:
    """The smallest centred square that holds more than ``share`` of the contributions (table 10).

    Scores are log10(contribution + 1), scaled to their largest. Squares have odd sides 3, 5, ...

    Args:
        contributions: (H, W), not negative; as :func:`contribution_map` returns it, or a mean of such maps.
        share: in (0, 1), 0.2 for the 20% column.

    Returns:
        Side of the square in pixels, and its area relative to the map. Where no square suffices: the
        longer side of the map, and 1.0.

    Raises:
        UserError: a map that is not two-dimensional, has negative, infinite or NaN entries, or is all zero.
    """
    contributions = np.asarray(contributions, np.float64)
    if contributions.ndim != 2:
        raise UserError(f"a contribution map has two dimensions, got shape {contributions.shape}")
    if not np.isfinite(contributions).all() or (contributions < 0).any():
        raise UserError("the contribution map has NaN, infinite or negative entries")
    if not 0.0 < share < 1.0:
        raise UserError(f"the share must lie between 0 and 1, got {share}")
    scores = np.log10(contributions + 1)
    if not scores.max() > 0:
        raise UserError("the contribution map is all zero: the network's centre does not depend on its input")
    scores /= scores.max()
    height, width = scores.shape
    total = scores.sum()
    for reach in range(1, min(height, width) // 2):
        rows = slice(height // 2 - reach, height // 2 + reach + 1)
        columns = slice(width // 2 - reach, width // 2 + reach + 1)
        if scores[rows, columns].sum() / total > share:
            side = 2 * reach + 1
            return side, side / height * side / width
    return max(height, width), 1.0
