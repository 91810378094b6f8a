"""The effective receptive field over one image, by the trained network whose program is served."""

from __future__ import annotations

import base64
import io
import logging
import time
from typing import Any

import numpy as np
import paddle
from PIL import Image

from ..analysis.receptive_field import SHARES, contribution_map, high_contribution_area, scaled_scores
from ..checkpoints.apply import load_weights
from ..checkpoints.convert import load_checkpoint
from ..config import RGB, Ops
from ..data import IMAGE, NORMALIZED_CHW, build_transforms
from ..data.images import GREY, as_pillow
from ..models.registry import recognise
from ..utils.errors import UserError

logger = logging.getLogger(__name__)

MAX_SIDE = 640  # pixels of the network's input
MAX_DIFFERENCE = 0.05  # of a probability, between the program (which may compute in bfloat16) and the network


class ReceptiveField:
    """Computes where in an image the centre of the last feature map looks.

    Args:
        weights: the checkpoint that the program was exported from.
        ops: the transforms of ``inference.yml``.
        channels: of the images.

    Raises:
        UserError: weights that cannot be read, or of no network known here.
    """

    def __init__(self, weights: str, ops: Ops, channels: int = RGB):
        state = load_checkpoint(weights)
        recognised = recognise(state, weights)
        self.network = recognised.build()
        load_weights(self.network, state, weights)
        self.network.eval()
        self._weights = weights
        self._transforms = build_transforms(ops, NORMALIZED_CHW, channels=channels)
        names = [op.name for op in ops]
        self._visible = None
        if "NormalizeImage" in names and channels in (RGB, GREY):
            visible = Ops(ops[: names.index("NormalizeImage")])
            self._visible = build_transforms(visible, IMAGE, channels=channels)

    def check(self, image: np.ndarray, probabilities: np.ndarray) -> None:
        """Check that the network is the one whose program is served.

        Args:
            image: (3, H, W).
            probabilities: the program's, (class_num,).

        Raises:
            UserError: it gives other probabilities, or the images are too large.
        """
        if max(image.shape[1:]) > MAX_SIDE:
            raise UserError(
                f"receptive fields are computed up to {MAX_SIDE} pixels a side, the program reads {image.shape[1:]}",
                code="serve.too-large-field",
            )
        with paddle.no_grad():
            output = self.network(paddle.to_tensor(image[None]))
            found = paddle.nn.functional.softmax(output)[0].numpy() if len(output.shape) == 2 else np.zeros(0)
        if found.shape != probabilities.shape or not np.abs(found - probabilities).max() <= MAX_DIFFERENCE:
            raise UserError(
                "these are not the weights of the program that is served: they give other probabilities",
                code="serve.other-weights",
                where=self._weights,
            )

    def __call__(self, data: bytes) -> dict[str, Any]:
        """The receptive field over an encoded image.

        Returns:
            ``map``: a grey PNG, the size of the network's input, of the cube roots of the scores; ``view``: what the
            network sees, a PNG, or None; both as data addresses. ``areas``: for each share of table 10, the side of
            the centred square that holds so much, and its part of the image.

        Raises:
            UserError: the image cannot be read, or its map is not finite or zero.
        """
        start = time.perf_counter()
        rng = np.random.default_rng(0)
        image = self._transforms(data, rng)
        contributions = contribution_map(self.network, paddle.to_tensor(image[None]))
        scores = scaled_scores(contributions)
        levels = np.round(255 * np.cbrt(scores)).astype(np.uint8)
        view = None if self._visible is None else as_pillow(self._visible(data, rng))
        areas = []
        for share in SHARES:
            side, part = high_contribution_area(contributions, share)
            areas.append({"share": share, "side": side, "part": round(part, 4)})
        return {
            "map": _png(Image.fromarray(levels)),
            "view": None if view is None else _png(view),
            "height": levels.shape[0],
            "width": levels.shape[1],
            "areas": areas,
            "milliseconds": round(1000 * (time.perf_counter() - start), 2),
        }


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
