"""Running a suite's exported programs with Paddle Inference, around a fault of Paddle 3.3. No network code."""

from __future__ import annotations

import functools
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import paddle
import paddle.inference
from paddle import nn

from ..deploy import programs
from ..utils.errors import UserError
from ..utils.paddle_errors import PADDLE_ERRORS, paddle_reason

logger = logging.getLogger(__name__)

FAULTY_PASS = "onednn_placement_pass"


class _Enlarged(nn.Layer):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return nn.functional.interpolate(x, scale_factor=2, mode="bilinear")


@functools.cache
def onednn_cannot_interpolate() -> bool:
    """Whether this Paddle fails where oneDNN interpolates, as 3.3 does (its issue 77340). A tiny program tells."""
    spec = [paddle.static.InputSpec([None, 1, None, None], "float32")]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has no weights, which Paddle says
        try:
            paddle.jit.save(_Enlarged(), f"{folder}/enlarged", input_spec=spec)
            config = paddle.inference.Config(f"{folder}/enlarged.json", f"{folder}/enlarged.pdiparams")
            config.disable_glog_info()
            config.disable_gpu()
            config.enable_mkldnn()
            paddle.inference.create_predictor(config).run([paddle.ones([1, 1, 2, 2])])
        except PADDLE_ERRORS:
            logger.info(
                "oneDNN cannot interpolate in Paddle %s: programs run without %s", paddle.__version__, FAULTY_PASS
            )
            return True
    return False


def inference_config(
    program: Path, weights: Path, device: str = "cpu", threads: Optional[int] = None
) -> paddle.inference.Config:
    """How Paddle Inference runs an exported program of a suite.

    On a CPU oneDNN is on. Where it cannot interpolate, the pass that gives it whole operators is left out, which is
    said once: five times faster than without oneDNN (UperNet with RepLKNet31B).

    Args:
        program, weights: ``.json`` and ``.pdiparams``.
        device: ``cpu`` or ``gpu``.
        threads: math threads on a CPU; :func:`ppreplk.utils.cores.default_threads` unless given.

    Raises:
        UserError: one of the files is missing, or there is no such device.
    """
    for path in (program, weights):
        if not path.is_file():
            raise UserError(f"no exported program: {path} is missing", code="plugins.no-program")
    if device not in ("cpu", "gpu"):
        raise UserError(f"programs run on cpu or gpu here, got {device!r}", code="plugins.device", where="--device")
    if device == "gpu" and not paddle.device.is_compiled_with_cuda():
        raise UserError("this Paddle has no GPU; use cpu", code="plugins.device", where="--device")
    config = programs.inference_config(program, weights, device, threads)
    if device == "cpu" and onednn_cannot_interpolate():
        config.delete_pass(FAULTY_PASS)
    return config


def create_predictor(config: paddle.inference.Config, program: Path) -> Any:
    """The running program.

    Raises:
        UserError: it cannot be loaded.
    """
    try:
        return paddle.inference.create_predictor(config)
    except PADDLE_ERRORS as error:
        raise UserError(
            f"cannot be loaded ({paddle_reason(error)}); export it again",
            code="plugins.bad-program",
            where=str(program),
        ) from error


def run_program(predictor: Any, inputs: Sequence[np.ndarray], program: Path) -> list[np.ndarray]:
    """The outputs of a running program.

    Args:
        predictor: of :func:`create_predictor`.
        inputs: in the program's order; the one of four dimensions is the images.
        program: its file, for the message.

    Raises:
        UserError: it does not run on images of this shape.
    """
    try:
        return [output.numpy() for output in predictor.run([paddle.to_tensor(each) for each in inputs])]
    except PADDLE_ERRORS as error:
        shape = next(list(each.shape[1:]) for each in inputs if each.ndim == 4)
        raise UserError(
            f"does not run on an image of shape {shape} ({paddle_reason(error)})",
            code="plugins.bad-image",
            where=str(program),
        ) from error
