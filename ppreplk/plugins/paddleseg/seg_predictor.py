"""Exported segmentation programs on images. Neither PaddleSeg nor network code is needed here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from PIL import Image

from ...config import read_yaml
from ...utils.errors import UserError
from ..pictures import draw_mask
from ..suite_images import read_image
from ..suite_programs import create_predictor, inference_config, run_program
from .seg_transforms import Preprocessing, restored

DESCRIPTIONS = ("deploy.yaml", "inference.yml")  # what PaddleSeg writes beside a program
CLASSES = "Classes"  # our section in it: names and palette


class SegmentationPredictor:
    """A program that ``python -m ppreplk.plugins.paddleseg export`` wrote, or PaddleSeg itself.

    Args:
        folder: with the program, its weights and ``deploy.yaml``.
        device: ``cpu`` or ``gpu``.
        threads: math threads on a CPU; those of :func:`ppreplk.utils.cores.default_threads` unless given.

    Raises:
        UserError: there is no such program, its preprocessing is not served here, or it cannot be loaded.
    """

    def __init__(self, folder: Union[str, Path], device: str = "cpu", threads: Optional[int] = None):
        description, content = _description(Path(folder))
        program, weights = (_file(Path(folder), content["Deploy"], key, description) for key in ("model", "params"))
        self.preprocessing = Preprocessing(content["Deploy"].get("transforms"), str(description))
        classes = content.get(CLASSES) or {}
        self.names: list[str] = [str(name) for name in classes.get("names") or []]
        self.palette = np.array(classes["palette"], np.uint8) if classes.get("palette") else None
        self._program = program
        self._predictor = create_predictor(inference_config(program, weights, device, threads), program)

    def __call__(self, image: Union[str, Path, np.ndarray]) -> np.ndarray:
        """The class of each pixel: (H, W) int64.

        Args:
            image: a file, or an array (H, W, 3) uint8, RGB.

        Raises:
            UserError: no such image, or the program does not run on one of its size.
        """
        return self.predict(read_image(image))

    def predict(self, image: np.ndarray) -> np.ndarray:
        """The class of each pixel of an array (H, W, 3) uint8, RGB: (H, W) int64."""
        batch, steps = self.preprocessing(image)
        output = run_program(self._predictor, [batch[None]], self._program)[0][0]
        return restored(output, steps)

    def picture(self, image: Union[str, Path, np.ndarray]) -> Image.Image:
        """The image with its classes painted over it, and a legend.

        Raises:
            UserError: see :meth:`__call__`.
        """
        pixels = read_image(image)
        return draw_mask(pixels, self.predict(pixels), self.names, self.palette)


def _description(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """The file beside a program that describes it, and its content."""
    found = [folder / name for name in DESCRIPTIONS if (folder / name).is_file()]
    if not found:
        raise UserError(
            f"no exported program in {folder}: {DESCRIPTIONS[0]} is missing; run "
            "python -m ppreplk.plugins.paddleseg export",
            code="plugins.no-program",
        )
    content = read_yaml(found[0])
    if not isinstance(content.get("Deploy"), Mapping):
        raise UserError("has no section Deploy, as PaddleSeg writes it", code="plugins.no-program", where=str(found[0]))
    return found[0], content


def _file(folder: Path, deploy: Mapping[str, Any], key: str, description: Path) -> Path:
    """A file that the description names. PaddleSeg calls a program ``model.pdmodel`` where Paddle 3 wrote a .json."""
    name = deploy.get(key)
    if not isinstance(name, str):
        raise UserError(f"names no {key}", code="plugins.no-program", where=str(description))
    path = folder / name
    return path if path.is_file() or path.suffix != ".pdmodel" else path.with_suffix(".json")
