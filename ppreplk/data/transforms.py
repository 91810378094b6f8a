"""The table of image transforms, under PaddleClas's names, arguments and defaults, and pipelines of them.

A transform is called with an image and a ``numpy.random.Generator`` and returns an image. ``kinds`` says which kinds
of image it takes and what it makes of each; :func:`build_transforms` checks them. All randomness comes from the
generator. The dataset seeds it per image, so results do not depend on worker processes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Callable, Protocol

import numpy as np

from ..config import RGB, Ops, construct, find_op
from ..utils.errors import UserError
from .augmentation import ColorJitter, RandFlipImage, RandomAffine, RandomErasing, TimmAutoAugment
from .decoding import DecodeImage, DecodeRandomCrop
from .images import ENCODED
from .normalization import NormalizeImage, ToCHWImage
from .resizing import CropImage, RandCropImage, RandomResizedCrop, ResizeImage


class Transform(Protocol):
    """One step of a pipeline."""

    @property
    def kinds(self) -> Mapping[str, str]:
        """{kind of image that it takes: kind that it makes of it}."""

    def __call__(self, image: Any, rng: np.random.Generator, /) -> Any: ...


TRANSFORMS: dict[str, Callable[..., Transform]] = {
    cls.__name__: cls
    for cls in (
        DecodeImage,
        ResizeImage,
        CropImage,
        RandCropImage,
        RandomResizedCrop,
        RandFlipImage,
        RandomAffine,
        TimmAutoAugment,
        ColorJitter,
        NormalizeImage,
        ToCHWImage,
        RandomErasing,
    )
}
UNSERVED_TRANSFORMS = dict.fromkeys(
    (
        "AugMix AutoAugment CenterCrop CropImageAtRatio CropWithPadding Cutout GridMask HideAndSeek "
        "Normalize Pad Padv2 PCALighting RandAugment RandAugmentV2 RandAugmentV3 RandAugmentV4 RandCropImageV2 "
        "RandomApply RandomCropImage RandomGrayscale RandomHorizontalFlip RandomInterpolationAugment RandomRot90 "
        "RandomRotation Resize ToTensor"
    ).split(),
    "the recipes do not use it",
)
ORDER = (
    "the usual order is DecodeImage, resizing and cropping, augmentation, NormalizeImage with order: '', "
    "RandomErasing, and in Infer ToCHWImage last"
)


class Pipeline:
    """Transforms one after the other."""

    def __init__(self, transforms: Sequence[Transform]):
        self.transforms = list(transforms)

    def __call__(self, data: Any, rng: np.random.Generator) -> Any:
        for transform in self.transforms:
            data = transform(data, rng)
        return data


def build_transforms(ops: Ops, result: str, start: str = ENCODED, channels: int = RGB) -> Pipeline:
    """The transforms of ``transform_ops`` or ``Infer.transforms``.

    Args:
        ops: the transforms.
        result: the kind of image that must come out, such as :data:`~ppreplk.data.NORMALIZED`.
        start: the kind of image that goes in.
        channels: of the images: 3 for RGB, 1 for grey, or those of the files.

    Raises:
        UserError: unknown transforms or arguments, or transforms that do not fit one another or the channels.
    """
    transforms: list[Any] = []
    kind = start
    for op in ops:
        factory = find_op(op, TRANSFORMS, UNSERVED_TRANSFORMS, "transform")
        transform = construct(factory, op.arguments, op.where, image_channels=channels)
        if kind not in transform.kinds:
            raise UserError(
                f"takes {' or '.join(transform.kinds)}, but here it gets {kind}; {ORDER}",
                code="data.transform-order",
                where=op.where,
            )
        kind = transform.kinds[kind]
        transforms.append(transform)
    if len(transforms) > 1 and DecodeRandomCrop.serves(*transforms[:2]):
        transforms[:2] = [DecodeRandomCrop(*transforms[:2])]
    if kind != result:
        where = ops[-1].where if ops else "the list of transforms"
        raise UserError(
            f"leaves {kind}, but {result} is needed at the end; {ORDER}", code="data.transform-order", where=where
        )
    return Pipeline(transforms)
