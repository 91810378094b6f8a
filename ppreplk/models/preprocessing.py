"""The preprocessing that published weights expect."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Ops, read_ops

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROP_PCT = 0.875  # below MIN_WARPED_SIZE: the crop relative to the shorter side it is cut from
MIN_WARPED_SIZE = 384  # pixels; from here on images are resized to a square without cropping


@dataclass(frozen=True)
class Preprocessing:
    """``mean`` and ``std`` of pixels between 0 and 1, and the side of the images in pixels."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: int = 224

    def transforms(self) -> Ops:
        """The transforms of an evaluation or a prediction."""
        resize = {"interpolation": "bicubic", "backend": "pil"}
        if self.size >= MIN_WARPED_SIZE:
            fit = [{"ResizeImage": {"size": self.size, **resize}}]
        else:
            shorter = int(self.size / CROP_PCT)
            fit = [{"ResizeImage": {"resize_short": shorter, **resize}}, {"CropImage": {"size": self.size}}]
        normalize = {"scale": 1 / 255, "mean": list(self.mean), "std": list(self.std), "order": ""}
        decode = {"DecodeImage": {"backend": "pil"}}
        return read_ops([decode, *fit, {"NormalizeImage": normalize}, "ToCHWImage"], "preprocessing")

    def __str__(self) -> str:
        return f"mean {list(self.mean)} and std {list(self.std)}"
