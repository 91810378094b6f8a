"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import paddle
from paddle import nn


class ExponentialMovingAverage:
    """``average = decay * average + (1 - decay) * weights`` after each optimizer step, without warm-up.

    Running statistics of batch normalizations are averaged too, as in the official training code.
    ``model`` is the averaged network, in eval mode.
    """

    def __init__(self, model: nn.Layer, decay: float):
        self.model = copy.deepcopy(model)
        self.model.eval()
        self.decay = decay

    @paddle.no_grad()
    def update(self, model: nn.Layer) -> None:
        current = model.state_dict()
        for name, average in self.model.state_dict().items():
            value = average * self.decay + current[name].astype(average.dtype) * (1.0 - self.decay)
            paddle.assign(value, average)
