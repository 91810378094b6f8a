"""Effective receptive field: how much each input pixel contributes to the centre of the last feature map.

Paper section 5 and table 10, with the definitions of the official analysis scripts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import paddle
from paddle import nn

from ..nn import eval_mode
from ..utils.errors import UserError, nearest

logger = logging.getLogger(__name__)

SHARES = (0.2, 0.3, 0.5, 0.99)  # the columns of table 10


def contribution_map(model: nn.Layer, images: paddle.Tensor, layer: str | None = None) -> np.ndarray:
    """Contribution of every input pixel to the central point of the last stage's output.

    The central activations of all channels, rectified and summed, are differentiated with respect to the
    input; the rectified gradient is summed over batch and channels. Eval mode is used whatever mode the
    model is in, and restored.

    Args:
        model: any network; see :func:`last_features` for what its last stage is taken to be.
        images: (N, C, H, W).
        layer: name of the sublayer whose output to use instead.

    Returns:
        (H, W) float32, not averaged over N; NaN throughout where the central activations are not finite.

    Raises:
        UserError: there is no such feature map.
    """
    images = images.detach()
    images.stop_gradient = False
    with eval_mode(model), frozen(model):
        features = last_features(model, images, layer)
        height, width = features.shape[2:]
        centre = features[:, :, height // 2, width // 2]
        if not bool(paddle.isfinite(centre).all()):  # Paddle's relu would make zeros of NaN
            return np.full(images.shape[2:], np.nan, np.float32)
        (gradient,) = paddle.grad(nn.functional.relu(centre).sum(), images)
    return np.maximum(gradient.numpy(), 0).sum(axis=(0, 1))


def last_features(model: nn.Layer, images: paddle.Tensor, layer: str | None = None) -> paddle.Tensor:
    """The feature map before the global pooling, (N, D, h, w).

    Our networks give it themselves (``forward_features``, before the last BN). Of another network, such as a
    backbone of paddleclas, it is what enters the last adaptive average pooling that is executed.

    Args:
        model: the network.
        images: (N, C, H, W).
        layer: name of the sublayer whose output to return instead.

    Raises:
        UserError: no such sublayer, or what it gives is no feature map; lists what could be meant.
    """
    try:
        if layer is None and hasattr(model, "forward_features"):
            features = model.forward_features(images)
        else:
            features = _features_in_passing(model, images, layer)
    except AssertionError as error:  # of a network that is made for one size
        size = "x".join(map(str, images.shape[2:]))
        raise UserError(f"{type(model).__name__} does not run on images of {size} ({error})") from error
    if not isinstance(features, paddle.Tensor) or len(features.shape) != 4:
        parts = ", ".join(name for name, _ in model.named_children())
        raise UserError(
            f"{type(model).__name__}: {layer or 'what it pools'} is no feature map of shape (N, D, h, w), or never "
            f"computed; name the layer whose output to use, one of {parts} or within"
        )
    return features


def _features_in_passing(model: nn.Layer, images: paddle.Tensor, layer: str | None):
    """The output of ``layer``, or what the last pooling takes; None where neither is computed."""
    found = [None]
    if layer is not None:
        named = dict(model.named_sublayers())
        if layer not in named:
            raise UserError(f"{type(model).__name__} has no layer {layer!r}{nearest(layer, named)}")
        hooks = [named[layer].register_forward_post_hook(lambda layer, inputs, output: found.append(output))]
    else:
        pools = [part for part in model.sublayers() if isinstance(part, nn.AdaptiveAvgPool2D)]
        hooks = [
            pool.register_forward_post_hook(lambda layer, inputs, output: found.append(inputs[0])) for pool in pools
        ]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found[-1]


@contextmanager
def frozen(model: nn.Layer) -> Iterator[None]:
    """No gradients of the parameters inside the block: they cost time and memory."""
    trainable = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    for parameter in trainable:
        parameter.stop_gradient = True
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.stop_gradient = False


def mean_contribution_map(
    model: nn.Layer, images: Iterable[tuple[str, paddle.Tensor]], layer: str | None = None
) -> np.ndarray:
    """The mean of :func:`contribution_map` over images, one after the other; none is kept.

    A map with NaN or infinity is left out, with a warning.

    Args:
        model, layer: see :func:`contribution_map`.
        images: pairs of a name, for messages, and (1, C, H, W), all of one size.

    Returns:
        (H, W) float64.

    Raises:
        UserError: there is no image, or none with a finite map.
    """
    total, count, left_out = 0.0, 0, 0
    for name, image in images:
        contributions = contribution_map(model, image, layer)
        if np.isfinite(contributions).all():
            total = total + contributions.astype(np.float64)
            count += 1
        else:
            logger.warning("%s: its contribution map has NaN or infinite entries and is left out", name)
            left_out += 1
    if not count:
        raise UserError(f"no image has a finite contribution map, {left_out} were tried; check the weights")
    return total / count


def scaled_scores(contributions: np.ndarray) -> np.ndarray:
    """log10(contribution + 1), scaled to its largest entry: what the areas and the pictures are made of.

    Args:
        contributions: (H, W), not negative.

    Raises:
        UserError: a map that is not two-dimensional, has negative, infinite or NaN entries, or is all zero.
    """
    contributions = np.asarray(contributions, np.float64)
    if contributions.ndim != 2:
        raise UserError(f"a contribution map has two dimensions, got shape {contributions.shape}")
    if not np.isfinite(contributions).all() or (contributions < 0).any():
        raise UserError("the contribution map has NaN, infinite or negative entries")
    scores = np.log1p(contributions)  # of any base: it is scaled
    if not scores.max() > 0:
        raise UserError("the contribution map is all zero: the network's centre does not depend on its input")
    return scores / scores.max()


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
    if not 0.0 < share < 1.0:
        raise UserError(f"the share must lie between 0 and 1, got {share}")
    scores = scaled_scores(contributions)
    height, width = scores.shape
    total = scores.sum()
    for reach in range(1, min(height, width) // 2):
        rows = slice(height // 2 - reach, height // 2 + reach + 1)
        columns = slice(width // 2 - reach, width // 2 + reach + 1)
        if scores[rows, columns].sum() / total > share:
            side = 2 * reach + 1
            return side, side / height * side / width
    return max(height, width), 1.0
