"""An exported program as a function from images to predictions. No network code is needed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from ..config import RGB
from ..utils.device import use_vector_units
from ..utils.errors import UserError
from .classifier import Classifier, check_count
from .inference_yml import read_description
from .programs import FP32, Program, choose_precision, program_files


class Predictor(Classifier):
    """Images to their likeliest classes, with a program that ``ppreplk export`` wrote.

    The program is the JSON one, or ``inference.pdmodel`` where that is not there. Preprocessing and class names are
    those in ``inference.yml`` beside it. It has run once when this returns, so that the first image takes no longer
    than others. Threads may share a predictor; its programs run one after the other, while images are prepared side by
    side.

    Args:
        model_dir: the folder.
        device: ``cpu`` or ``gpu``.
        threads: math threads on a CPU; as many as cores, unless ``OMP_NUM_THREADS`` says otherwise.
        precision: ``"fp32"``, ``"fp32-bf16x3"``, ``"bf16"`` or ``"int8"``; what it was exported for unless given, and
            float32 where the processor has no such arithmetic.
        onednn: whether oneDNN computes on a CPU.

    Attributes:
        model_name: the network's name.
        class_names: in order, or None.
        precision: the program that runs.
        image_shape: (C, H, W) of what it reads.
        warm_up_seconds: how long its first run took.

    Raises:
        UserError: no such program, a broken one, or bfloat16 or 8-bit integers asked for where the processor does not
            multiply them; no such device, or no number of threads.

    Example::

        predictor = ppreplk.Predictor("inference/digits")
        (prediction,) = predictor("picture.png")
        print(prediction.label_names[0], prediction.scores[0])
        predictor([pillow_image, array, encoded], topk=1)
    """

    def __init__(
        self,
        model_dir: Union[str, Path],
        device: str = "cpu",
        threads: Optional[int] = None,
        precision: Optional[str] = None,
        onednn: bool = True,
    ):
        check_count("threads", threads)
        program_files(model_dir, precision or FP32)  # of all that may be missing, these are said first
        description = read_description(model_dir)
        self.model_name = description.model_name
        exported = FP32 if description.precision is None else description.precision
        self.precision = choose_precision(str(model_dir), device, exported, precision)
        if device == "cpu":
            use_vector_units()
        self.program = Program(model_dir, device, threads, self.precision, onednn)
        shape = self.program.input_shape
        self.image_shape = shape[1:] if shape and -1 not in shape[1:] else description.image_shape
        super().__init__(
            self.program,
            description.transforms,
            description.topk,
            description.class_names,
            description.add_softmax,
            self.image_shape[0] if self.image_shape else RGB,
        )
        start = time.perf_counter()
        self._warm_up(model_dir)
        self.warm_up_seconds = time.perf_counter() - start

    def run(self, images: Any) -> np.ndarray:
        """The program's outputs (N, class_num) float32, for images (N, C, H, W) that are prepared.

        They are probabilities, or logits where the program was exported without a softmax.

        Raises:
            UserError: images of another shape, or no numbers.
        """
        return self.program(images)

    def _warm_up(self, model_dir: Union[str, Path]) -> None:
        if self.image_shape is None:
            return
        try:
            outputs = self.run(np.zeros((1, *self.image_shape), np.float32))
        except UserError as error:
            raise UserError(f"{error}; export it again", code="deploy.bad-program", where=str(model_dir)) from error
        classes = outputs.shape[-1]
        if self.class_names is not None and len(self.class_names) != classes:
            raise UserError(
                f"inference.yml has {len(self.class_names)} class names for {classes} classes; export it again",
                code="deploy.bad-class-names",
                where=str(model_dir),
            )
