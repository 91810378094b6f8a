"""Effective receptive field: how much each input pixel contributes to the centre of the last feature map.

Source: the paper's section 5 and table 10, and the definitions of the official analysis scripts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import paddle
from paddle import nn

from ..nn import eval_mode
from ..utils.errors import UserError, nearest
from .running import not_for_size, running

logger = logging.getLogger(__name__)

SHARES = (0.2, 0.3, 0.5, 0.99)  # the columns of table 10


@runtime_checkable
class HasFeatures(Protocol):
    """A network that gives its last feature map itself."""

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """(N, D, h, w), before the global pooling."""
        ...


def contribution_map(model: nn.Layer, images: paddle.Tensor, layer: str | None = None) -> np.ndarray:
    """Contribution of every input pixel to the central point of the last feature map.

    The central activations are rectified, summed over the channels, and differentiated with respect to the input.
    The rectified gradient is summed over batch and channels. The network computes in eval mode; its own mode is
    restored afterwards.

    Args:
        model: any network. See :func:`last_features` for what its last feature map is.
        images: (N, C, H, W).
        layer: name of a sublayer whose output to use instead of the last feature map.

    Returns:
        (H, W) float32, the sum over N. All entries are NaN where the central activations are not finite.

    Raises:
        UserError: there is no such feature map.

    >>> import ppreplk
    >>> model = ppreplk.build_model("RepLKNet13T")
    >>> contribution_map(model, paddle.rand([2, 3, 64, 64])).shape
    (64, 64)
    """
    images = images.detach()
    images.stop_gradient = False
    with eval_mode(model), frozen(model):
        features = last_features(model, images, layer)
        height, width = features.shape[2:]
        centre = features[:, :, height // 2, width // 2]
        if not bool(paddle.isfinite(centre).all()):  # Paddle's relu turns NaN into zero
            return np.full(images.shape[2:], np.nan, np.float32)
        (gradient,) = paddle.grad(nn.functional.relu(centre).sum(), images)
    return np.maximum(gradient.numpy(), 0).sum(axis=(0, 1))


def last_features(model: nn.Layer, images: paddle.Tensor, layer: str | None = None) -> paddle.Tensor:
    """The feature map before the global pooling, (N, D, h, w).

    A network with features of its own (:class:`HasFeatures`) is asked for them; ours give those before the last BN.
    From any other network, such as a backbone of paddleclas, the input of the last adaptive average pooling is taken.

    Args:
        model: the network.
        images: (N, C, H, W).
        layer: name of a sublayer whose output to return instead.

    Raises:
        UserError: there is no such sublayer (the nearest names are listed), its output is no feature map, or the
            network is made for images of another size.
    """
    network = type(model).__name__
    with running(model, network, images.shape):
        if layer is None and isinstance(model, HasFeatures):
            features = model.forward_features(images)
        else:
            features = _features_in_passing(model, images, layer)
    if isinstance(features, paddle.Tensor) and 0 in features.shape:
        raise not_for_size(network, images.shape, f"its last feature map is empty, {list(features.shape)}")
    if not isinstance(features, paddle.Tensor) or len(features.shape) != 4:
        parts = ", ".join(name for name, _ in model.named_children())
        message = (
            f"{layer or 'what it pools'} is no feature map of shape (N, D, h, w), or is never computed; name the layer "
            f"whose output to use, one of {parts} or within"
        )
        raise UserError(message, code="analysis.no-feature-map", where=network)
    return features


def _features_in_passing(model: nn.Layer, images: paddle.Tensor, layer: str | None) -> Any:
    """The output of ``layer``, or without one the input of the last pooling; None if neither is computed."""
    found: list[Any] = [None]

    def keep_output(part: nn.Layer, inputs: Any, output: Any) -> None:
        found.append(output)

    def keep_input(part: nn.Layer, inputs: Any, output: Any) -> None:
        found.append(inputs[0])

    if layer is not None:
        named = dict(model.named_sublayers())
        if layer not in named:
            message = f"{type(model).__name__} has no layer {layer!r}{nearest(layer, named)}"
            raise UserError(message, code="analysis.unknown-layer")
        hooks = [named[layer].register_forward_post_hook(keep_output)]
    else:
        pools = [part for part in model.sublayers() if isinstance(part, nn.AdaptiveAvgPool2D)]
        hooks = [pool.register_forward_post_hook(keep_input) for pool in pools]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found[-1]


@contextmanager
def frozen(model: nn.Layer) -> Iterator[None]:
    """Turn the gradients of the parameters off inside the block, which saves time and memory."""
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
    """The mean of :func:`contribution_map` over images, which are taken one after the other.

    A map with NaN or infinite entries is left out, with a warning.

    Args:
        model, layer: see :func:`contribution_map`.
        images: pairs of a name, for messages, and an image (1, C, H, W). All have one size.

    Returns:
        (H, W) float64.

    Raises:
        UserError: there is no image, or none with a finite map.
    """
    total: Any = 0.0
    count = left_out = 0
    for name, image in images:
        contributions = contribution_map(model, image, layer)
        if np.isfinite(contributions).all():
            total = total + contributions.astype(np.float64)
            count += 1
        else:
            logger.warning("%s: its contribution map has NaN or infinite entries and is left out", name)
            left_out += 1
    if not count:
        message = f"no image has a finite contribution map, {left_out} were tried; check the weights"
        raise UserError(message, code="analysis.no-finite-map")
    return total / count


def scaled_scores(contributions: np.ndarray) -> np.ndarray:
    """log10(contribution + 1), divided by the largest: what areas and pictures are made of.

    Args:
        contributions: (H, W), not negative.

    Returns:
        (H, W) float64, from 0 to 1.

    Raises:
        UserError: the map is not two-dimensional, has negative, infinite or NaN entries, or is all zero.

    >>> scaled_scores(np.array([[0.0, 9.0], [0.0, 99.0]]))
    array([[0. , 0.5],
           [0. , 1. ]])
    """
    contributions = np.asarray(contributions, np.float64)
    if contributions.ndim != 2:
        raise UserError(
            f"a contribution map has two dimensions, got shape {contributions.shape}", code="analysis.not-a-map"
        )
    if not np.isfinite(contributions).all() or (contributions < 0).any():
        raise UserError("the contribution map has NaN, infinite or negative entries", code="analysis.not-a-map")
    scores = np.log1p(contributions)  # the base cancels out below
    if not scores.max() > 0:
        message = "the contribution map is all zero: the network's centre does not depend on its input"
        raise UserError(message, code="analysis.not-a-map")
    return scores / scores.max()


def high_contribution_area(contributions: np.ndarray, share: float, logarithm: bool = True) -> tuple[int, float]:
    """The smallest centred square that holds more than ``share`` of the contributions (table 10).

    The paper measures contributions by :func:`scaled_scores`, whose logarithm makes areas depend on the scale of the
    gradients. Without it they do not. Squares have odd sides 3, 5, ...

    Args:
        contributions: (H, W), not negative: what :func:`contribution_map` returns, or a mean of such maps.
        share: between 0 and 1, such as 0.2 for the column of 20%.
        logarithm: take shares of the scores, as the paper does, not of the contributions themselves.

    Returns:
        Side of the square in pixels, and its area relative to the map. If no square within the map suffices: the
        longer side of the map, and 1.0.

    Raises:
        UserError: a share out of range, or a map that :func:`scaled_scores` refuses.

    >>> high_contribution_area(np.ones((100, 100)), 0.5)  # 71 * 71 of 100 * 100 pixels
    (71, 0.5041)
    """
    if not 0.0 < share < 1.0:
        raise UserError(f"the share must lie between 0 and 1, got {share}", code="analysis.share")
    scores = scaled_scores(contributions)
    if not logarithm:
        scores = np.asarray(contributions, np.float64)
    height, width = scores.shape
    total = scores.sum()
    for reach in range(1, min(height, width) // 2):
        rows = slice(height // 2 - reach, height // 2 + reach + 1)
        columns = slice(width // 2 - reach, width // 2 + reach + 1)
        if scores[rows, columns].sum() / total > share:
            side = 2 * reach + 1
            return side, side / height * side / width
    return max(height, width), 1.0
