"""Programs in JSON, Paddle's own format since 3.0: ``inference.json``, and those of other precisions beside it."""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from pathlib import Path

import paddle
from paddle import nn

from ..config import Config
from .calibration import calibration_batches, calibration_images
from .lowering import check_lowering, lower
from .programs import FP32, INT8, PROGRAMS, WEIGHTS, Program
from .verify import PROGRAM_NAME, Runtime


class InferenceModel(nn.Layer):
    """A network in inference form, with a softmax behind it unless told otherwise, as PaddleClas exports it."""

    def __init__(self, network: nn.Layer, softmax: bool):
        super().__init__()
        self.network = network
        self.softmax = nn.Softmax() if softmax else nn.Identity()
        self.eval()

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        return self.softmax(self.network(images))


def check(config: Config, precisions: Sequence[str]) -> None:
    """Check that the programs can be made here.

    Raises:
        UserError: they cannot; says why.
    """
    for precision in precisions:
        check_lowering(config.Global.export_runtime, precision, config.Global.export_depthwise)


def write(network: nn.Layer, config: Config, folder: Path, precisions: Sequence[str]) -> None:
    """Write a program for each precision. All share one file of weights."""
    settings = config.Global
    calibration = calibration_batches(config, calibration_images(config) if INT8 in precisions else None)
    forms = lower(network, settings.export_runtime, precisions, settings.export_depthwise, calibration)
    for precision, form in forms.items():
        path = folder / PROGRAMS[precision]
        save_network(InferenceModel(form, config.Arch.infer_add_softmax), settings.image_shape, path)
        if precision != FP32:
            weights = path.with_suffix(".pdiparams")
            if not filecmp.cmp(weights, folder / WEIGHTS, shallow=False):
                raise RuntimeError(f"the {precision} program was saved with other weights than the {FP32} one")
            weights.unlink()


def save_network(model: nn.Layer, image_shape: Sequence[int], path: Path) -> None:
    """Write ``path`` with the program's suffix and ``path``.pdiparams, for any number of images of (C, H, W).

    The weights lie in the file in the order of their names. Those that Paddle gives are numbered without leading zeros,
    on from those given before, so that ``conv2d_100`` of one copy of a network would come before ``conv2d_99``, and the
    next copy's be in another order. So the model's weights get other names.
    """
    for number, weight in enumerate([*model.parameters(), *model.buffers()]):
        weight.name = f"weight_{number:05d}"
    spec = [paddle.static.InputSpec([None, *image_shape], "float32")]
    paddle.jit.save(paddle.jit.to_static(model, input_spec=spec, full_graph=True), str(path))


def runtimes(folder: Path, config: Config, precisions: Sequence[str]) -> list[Runtime]:
    """Paddle Inference with each of the programs."""
    settings = config.Global
    return [
        Runtime(
            PROGRAM_NAME.format(precision),
            Program(folder, settings.device, settings.num_threads, precision),
            precision,
        )
        for precision in precisions
    ]
