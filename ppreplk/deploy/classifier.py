"""From images of any kind to predictions, with a function of arrays in between. No network code is needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from PIL import Image

from ..config import RGB, Ops, construct
from ..data import IMAGE, NORMALIZED_CHW, DecodeImage, build_transforms, load_image
from ..utils.errors import UserError
from .predict import Prediction

ImageInput = Union[str, Path, bytes, Image.Image, np.ndarray]
KINDS = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
BATCH_SIZE = 16


class Classifier:
    """Images to their likeliest classes. Threads may share one, if they may share ``run``.

    Args:
        run: images (N, C, H, W) float32 to logits or probabilities (N, class_num).
        ops: the transforms of an image, from its file to (C, H, W) float32.
        topk: classes that are shown, unless a call says otherwise.
        class_names: in order, or None where they are unknown.
        add_softmax: whether ``run`` returns logits.
        channels: C: 3 for RGB, 1 for grey, or those of the files.

    Raises:
        UserError: transforms that do not fit one another.
    """

    def __init__(
        self,
        run: Callable[[np.ndarray], np.ndarray],
        ops: Ops,
        topk: int,
        class_names: Sequence[str] | None,
        add_softmax: bool,
        channels: int = RGB,
    ):
        self.topk = topk
        self.class_names = None if class_names is None else list(class_names)
        self._run = run
        self._add_softmax = add_softmax
        self._from_file = build_transforms(ops, NORMALIZED_CHW, channels=channels)
        self._from_image = build_transforms(Ops(ops[1:]), NORMALIZED_CHW, start=IMAGE, channels=channels)
        self._decode = construct(DecodeImage, ops[0].arguments, ops[0].where, image_channels=channels)
        self._decoding = threading.Lock()

    def __call__(
        self, images: ImageInput | Iterable[ImageInput], topk: Optional[int] = None, batch_size: int = BATCH_SIZE
    ) -> list[Prediction]:
        """The likeliest classes of images: one :class:`Prediction` for each, in their order.

        Args:
            images: one image or several, of which each is a path, the bytes of a file, a Pillow image, or an array
                (H, W, 3) of uint8 in RGB. Arrays (H, W) are grey, (H, W, 4) have a transparency, uint16 is served too.
                For a network of other than 3 channels or 1, an array has just its channels.
            topk: how many classes; as many as were exported, unless given.
            batch_size: images that are computed together.

        Raises:
            UserError: an image cannot be used; the message begins with its path, or with its place, ``images[2]``.
        """
        check_count("topk", topk)
        check_count("batch_size", batch_size)
        several = [images] if isinstance(images, KINDS) else _as_list(images)
        names = [_name(image, index) for index, image in enumerate(several)]
        found: list[Prediction] = []
        for start in range(0, len(several), batch_size):
            part = slice(start, start + batch_size)
            arrays = [self.prepare(image, name) for image, name in zip(several[part], names[part])]
            found += self.classify(names[part], arrays, topk)
        return found

    def prepare(self, image: ImageInput, name: str = "image") -> np.ndarray:
        """An image as the network reads it: (C, H, W) float32.

        Args:
            image: a path, bytes, a Pillow image or an array, see :meth:`__call__`.
            name: what errors call it, unless it is a path.

        Raises:
            UserError: it cannot be read, or is nothing of the kind.
        """
        rng = np.random.default_rng(0)
        if isinstance(image, (str, os.PathLike)):
            return load_image(os.fspath(image), self._from_file, rng)
        try:
            if isinstance(image, (bytes, bytearray, memoryview)):
                return self._from_file(bytes(image), rng)
            if isinstance(image, Image.Image):
                with self._decoding:  # threads may share an image whose pixels are not loaded yet
                    shown = self._decode.show(image)
            elif isinstance(image, np.ndarray):
                shown = self._decode.show(image)
            else:
                raise UserError(
                    "expected a path, the bytes of a file, a Pillow image or an array (H, W, 3) of uint8, got "
                    + type(image).__name__,
                    code="deploy.bad-images",
                )
            return self._from_image(shown, rng)
        except UserError as error:
            raise error.at(name) from error

    def classify(
        self, names: Sequence[str], images: Sequence[np.ndarray], topk: Optional[int] = None
    ) -> list[Prediction]:
        """Predictions for images that :meth:`prepare` made, each (C, H, W), as one batch.

        Args:
            names: what the predictions call them.
            images: the arrays.
            topk: how many classes, unless as many as were exported.

        Raises:
            UserError: the images differ in shape, or there are not as many class names as classes.
        """
        for name, image in zip(names, images):
            if image.shape != images[0].shape:
                raise UserError(
                    f"shape {image.shape} after Infer.transforms, others {images[0].shape}; crop or resize to one "
                    "size, or use -o Infer.batch_size=1",
                    code="deploy.other-shape",
                    where=name,
                )
        scores = self._run(np.stack(images)).astype(np.float64)
        if self._add_softmax:
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
        ranked = np.argsort(-scores, axis=1, kind="stable")[:, : topk or self.topk]
        labels = self.class_names
        if labels is not None and len(labels) != scores.shape[1]:
            raise UserError(
                f"there are {len(labels)} class names for {scores.shape[1]} classes; check class_id_map_file",
                code="deploy.bad-class-names",
            )
        return [
            Prediction(
                name,
                best.tolist(),
                [round(float(row[index]), 5) for index in best],
                [labels[index] for index in best] if labels is not None else [],
            )
            for name, row, best in zip(names, scores, ranked)
        ]


def check_count(name: str, value: Any) -> None:
    """Check that an argument is None, or counts something.

    Raises:
        UserError: it is no whole number from 1 on.
    """
    if value is not None and not (isinstance(value, (int, np.integer)) and value >= 1):
        raise UserError(f"expected a whole number from 1 on, got {value!r}", code="deploy.bad-value", where=name)


def _as_list(images: Any) -> list[Any]:
    try:
        return list(images)
    except TypeError as error:
        raise UserError(
            f"expected one image or a list of them, got {type(images).__name__}",
            code="deploy.bad-images",
            where="images",
        ) from error


def _name(image: Any, index: int) -> str:
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"images[{index}]"
