"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import paddle
from paddle import nn


class ExponentialMovingAverage:
    """An averaged copy of a network, in eval mode: ``average = decay * average + (1 - decay) * weights``.

    The average starts from the network's own weights and has no warm-up. Running statistics of batch normalizations
    are averaged too, as in the official training code.

    Args:
        model: the network that is trained; ``self.model`` is the averaged copy.
        decay: between 0 and 1.
    """

    def __init__(self, model: nn.Layer, decay: float):
        self.model = copy.deepcopy(model)
        self.model.eval()
        self.decay = decay

    @paddle.no_grad()
    def update(self, model: nn.Layer) -> None:
        """Move the average towards the weights of ``model``; call it after each optimizer step."""
        current = model.state_dict()
        for name, average in self.model.state_dict().items():
            value = average * self.decay + current[name].astype(average.dtype) * (1.0 - self.decay)
            paddle.assign(value, average)
