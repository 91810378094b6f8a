"""Pointwise convolutions of a channels-last network as products of 8-bit integers, with ranges from images.

Weights are quantized when they are packed, with a scale for each output channel. The input of a convolution has one
scale, from the least and the largest value that it had on the calibration images. Tensors between the layers stay
bfloat16, and all other layers are those of a bfloat16 network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Union

import numpy as np
import paddle

from ..ops import onednn
from ..utils.errors import UserError
from .channels_last import ChannelsLastNetwork, ConvNHWC, FeedForwardNHWC, InputRange

# The fewest input channels that are worth it. Quantizing included, layers of 16 channels took a fifth longer than in
# bfloat16, those of 32 as long and their feed-forward blocks a tenth less, those of 64 and more less.
MIN_CHANNELS = 32

Quantizable = Union[ConvNHWC, FeedForwardNHWC]
Ranges = Sequence[Sequence[InputRange]]  # of the inputs of each part: one, or two of a feed-forward block


def quantizable_parts(network: ChannelsLastNetwork) -> list[Quantizable]:
    """The layers that multiply 8-bit integers in a quantized network, in order."""
    return [part for part in network.parts if _is_quantizable(part)]


def quantize(network: ChannelsLastNetwork, ranges: Ranges) -> None:
    """Let a network multiply 8-bit integers, with ranges from :func:`calibrate`. Programs use a bfloat16 one.

    Raises:
        UserError: NaN or infinite weights.
    """
    parts = quantizable_parts(network)
    assert len(parts) == len(ranges)
    for part, found in zip(parts, ranges):
        weights = [part.weight1, part.weight2] if isinstance(part, FeedForwardNHWC) else [part.weight]
        if not all(paddle.isfinite(weight).all() for weight in weights):  # calibration passes where a ReLU hides them
            raise _not_finite("the network has weights that are NaN or infinite; use an earlier checkpoint")
        if isinstance(part, FeedForwardNHWC):
            first, second = found
            part.input_ranges = first, second
        else:
            (part.input_range,) = found
        part.forget()


@paddle.no_grad()
def calibrate(network: ChannelsLastNetwork, batches: Iterable[np.ndarray]) -> Ranges:
    """The ranges of the inputs of :func:`quantizable_parts`, while a network computes images.

    Args:
        network: in float32; it keeps what it packs.
        batches: images (N, C, H, W), float32.

    Raises:
        UserError: NaN or infinite values in images or network, or no images.
    """
    parts = quantizable_parts(network)
    found: list[list[InputRange]] = [[] for _ in parts]
    hooks = [
        part.register_forward_pre_hook(lambda part, inputs, seen=seen: _see(seen, _inputs(part, inputs[0])))
        for part, seen in zip(parts, found)
    ]
    try:
        for images in batches:
            if not np.isfinite(images).all():  # a ReLU could hide them
                raise _not_finite("the calibration images hold NaN or infinite values")
            network(paddle.to_tensor(images))
    finally:
        for hook in hooks:
            hook.remove()
    if not all(found):
        raise UserError("calibration needs at least one image", code="nn.no-calibration-images")
    if not np.isfinite([each for seen in found for each in seen]).all():
        raise _not_finite("the network computes NaN or infinite values from the calibration images; evaluate it first")
    return found


def _not_finite(message: str) -> UserError:
    return UserError(message, code="nn.not-finite")


def _is_quantizable(part: paddle.nn.Layer) -> bool:
    if isinstance(part, FeedForwardNHWC):
        return part.weight1.shape[1] >= MIN_CHANNELS
    is_pointwise = isinstance(part, ConvNHWC) and part.kernel_size == part.stride == part.groups == 1
    return is_pointwise and part.weight.shape[1] >= MIN_CHANNELS


def _inputs(part: Quantizable, x: paddle.Tensor) -> list[paddle.Tensor]:
    """The inputs of a part's convolutions."""
    if isinstance(part, ConvNHWC):
        return [x]
    packed, _ = part.packed_for(x, part.pack)
    return [x, onednn.conv(x, packed, part.bias1, None, 1, 1, 1, "gelu")]


def _see(seen: list[InputRange], inputs: Sequence[paddle.Tensor]) -> None:
    """Extend the ranges by these inputs."""
    for index, x in enumerate(inputs):
        low, high = float(x.min()), float(x.max())
        if index == len(seen):
            seen.append(InputRange(low, high))
        else:  # NaN stays
            before = seen[index]
            seen[index] = InputRange(float(np.minimum(before.low, low)), float(np.maximum(before.high, high)))
