"""Normalization and memory layout.

Type hints here are evaluated at run time, so they keep to what Python 3.9 can evaluate.
"""

from collections.abc import Sequence
from typing import Literal, Optional

import numpy as np

from ..config import RGB
from ..utils.errors import UserError
from .images import IMAGE, IMAGE_CHW, NORMALIZED, NORMALIZED_CHW, ImageLike, as_array


class NormalizeImage:
    """``(image * scale - mean) / std`` per channel, in float32.

    Args:
        scale: 1 / 255 unless given.
        mean, std: a number for each channel; those of ImageNet unless given, for RGB images.
        order: ``chw`` for a channel-first image; ``hwc`` or empty for an (H, W, C) image.
        output_fp16, channel_num: PaddleClas's arguments; other values are refused.
    """

    def __init__(
        self,
        scale: Optional[float] = None,
        mean: Optional[Sequence[float]] = None,
        std: Optional[Sequence[float]] = None,
        order: Literal["chw", "hwc", ""] = "chw",
        output_fp16: Literal[False] = False,
        channel_num: Literal[3] = 3,
        image_channels: int = RGB,
    ):
        self.kinds = {IMAGE_CHW: NORMALIZED_CHW} if order == "chw" else {IMAGE: NORMALIZED}
        self.channel_first = order == "chw"
        mean, std = mean or (0.485, 0.456, 0.406), std or (0.229, 0.224, 0.225)
        if len(mean) != image_channels or len(std) != image_channels or min(std) <= 0:
            many = "three" if image_channels == RGB else f"{image_channels} (Arch.in_channels)"
            raise UserError(
                f"mean and std need {many} numbers each, std positive, got {list(mean)} and {list(std)}",
                code="data.bad-argument",
            )
        divisor = np.asarray(std, np.float64)[:, None, None]
        self.factor = ((1 / 255 if scale is None else scale) / divisor).astype(np.float32)
        self.offset = (np.asarray(mean, np.float64)[:, None, None] / divisor).astype(np.float32)

    def __call__(self, image: ImageLike, rng: np.random.Generator) -> np.ndarray:
        planes = as_array(image) if self.channel_first else as_array(image).transpose(2, 0, 1)
        # channel-first in memory in either case: faster here, and the network takes it so in the end
        planes = np.multiply(planes, self.factor, order="C")
        planes -= self.offset
        return planes if self.channel_first else planes.transpose(1, 2, 0)


class ToCHWImage:
    """(H, W, C) to (C, H, W)."""

    kinds = {IMAGE: IMAGE_CHW, NORMALIZED: NORMALIZED_CHW}

    def __call__(self, image: ImageLike, rng: np.random.Generator) -> np.ndarray:
        return as_array(image).transpose(2, 0, 1)
