"""Exported detection programs on images. Neither PaddleDetection nor network code is needed here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from PIL import Image

from ...config import read_yaml
from ...utils.errors import UserError
from ..pictures import Detections, draw_detections
from ..suite_images import read_image
from ..suite_programs import create_predictor, inference_config, run_program
from .det_transforms import Preprocessing

DESCRIPTION = "infer_cfg.yml"  # what PaddleDetection writes beside a program
PROGRAM, WEIGHTS = "model.json", "model.pdiparams"


class DetectionPredictor:
    """A program that ``python -m ppreplk.plugins.paddledetection export`` wrote, or PaddleDetection itself.

    Args:
        folder: with ``model.json``, ``model.pdiparams`` and ``infer_cfg.yml``.
        device: ``cpu`` or ``gpu``.
        threads: math threads on a CPU; those of :func:`ppreplk.utils.cores.default_threads` unless given.

    Raises:
        UserError: there is no such program, its preprocessing is not served here, or it cannot be loaded.
    """

    def __init__(self, folder: Union[str, Path], device: str = "cpu", threads: Optional[int] = None):
        path = Path(folder) / DESCRIPTION
        content = _description(path)
        self.preprocessing = Preprocessing(content.get("Preprocess"), str(path))
        self.names: list[str] = [str(name) for name in content.get("label_list") or []]
        self.has_masks = bool(content.get("mask"))
        self.threshold = float(content.get("draw_threshold", 0.5))
        self._program = Path(folder) / PROGRAM
        config = inference_config(self._program, Path(folder) / WEIGHTS, device, threads)
        self._predictor = create_predictor(config, self._program)

    def __call__(self, image: Union[str, Path, np.ndarray]) -> Detections:
        """What is on an image, the best first; boxes and masks in its own pixels.

        All that the program says is there. Most of it has a low score; see :attr:`threshold`.

        Args:
            image: a file, or an array (H, W, 3) uint8, RGB.

        Raises:
            UserError: no such image, or the program does not run on one of its size.
        """
        pixels = read_image(image)
        return detections_of(self.run(self.preprocessing(pixels).batch()), pixels.shape[:2], self.has_masks)

    def run(self, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The program's outputs for a batch of one: boxes (N, 6), their number (1,), and masks (N, H, W)."""
        inputs = [batch[name] for name in self._predictor.get_input_names()]
        return run_program(self._predictor, inputs, self._program)

    def picture(self, image: Union[str, Path, np.ndarray], threshold: Optional[float] = None) -> Image.Image:
        """The image with boxes, classes and scores, and masks if the program makes some.

        Args:
            image: see :meth:`__call__`.
            threshold: what has a lower score is left out; that of ``infer_cfg.yml`` unless given.

        Raises:
            UserError: see :meth:`__call__`.
        """
        pixels = read_image(image)
        score = self.threshold if threshold is None else threshold
        return draw_detections(pixels, self(pixels), self.names, threshold=score)


def detections_of(outputs: list[np.ndarray], size: tuple[int, ...], has_masks: bool) -> Detections:
    """A network's outputs for one image as detections, the best first.

    PaddleDetection says with a class of -1, or a score of 0, that there is nothing.

    Args:
        outputs: boxes (N, 6), rows of class, score, left, top, right, bottom; their number; masks (N, H, W).
        size: height and width of the image.
        has_masks: whether there are masks.
    """
    rows = outputs[0].reshape(-1, 6)
    found = np.flatnonzero((rows[:, 0] >= 0) & (rows[:, 1] > 0))
    order = found[np.argsort(-rows[found, 1], kind="stable")]
    rows = rows[order]
    masks = None
    if has_masks:
        masks = np.zeros((len(order), *size), bool)
        if len(order):  # a mask may be a pixel larger or smaller than the image, whose size is computed from its scale
            given = outputs[2][order] > 0
            height, width = min(size[0], given.shape[1]), min(size[1], given.shape[2])
            masks[:, :height, :width] = given[:, :height, :width]
    return Detections(rows[:, 2:], rows[:, 0].astype(np.int64), rows[:, 1], masks)


def _description(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise UserError(
            f"no exported program: {path} is missing; run python -m ppreplk.plugins.paddledetection export",
            code="plugins.no-program",
        )
    content = read_yaml(str(path))
    if not isinstance(content, Mapping) or "Preprocess" not in content:
        raise UserError(
            "has no section Preprocess, as PaddleDetection writes it", code="plugins.no-program", where=str(path)
        )
    return content
