"""Programs in the format of Paddle 2: ``inference.pdmodel``, which older Paddle, PaddleClas and OpenVINO read.

It lies beside ``inference.json`` and shares its file of weights. Paddle 3 still writes it, from its old kind of static
graph. There ``F.gelu`` of Paddle 3.3 fails, so GELU layers append the operator themselves.
"""

from __future__ import annotations

import filecmp
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from ..config import Config
from ..utils.cores import default_threads
from ..utils.errors import UserError
from ..utils.paddle_errors import PADDLE_ERRORS, paddle_reason
from .lowering import NATIVE, lower
from .other_runtimes import openvino_runtime
from .program_file import InferenceModel, save_network
from .programs import FP32, LEGACY_FILE, PROGRAMS, WEIGHTS, inference_config
from .verify import Runtime

KEY = "Global.export_format=pdmodel"


class LegacyGELU(nn.Layer):
    """GELU with the error function, as an operator of the old static graph."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        from paddle.base.layer_helper import LayerHelper

        helper = LayerHelper("gelu")
        out = helper.create_variable_for_type_inference(x.dtype)
        helper.append_op(type="gelu", inputs={"X": x}, outputs={"Out": out}, attrs={"approximate": False})
        return out


def check(config: Config, precisions: Sequence[str]) -> None:
    """Check that the program can be made: of Paddle's own operators only, in float32.

    Raises:
        UserError: the configuration asks for others, or Paddle no longer writes this format.
    """
    settings = config.Global
    others = {"export_runtime": settings.export_runtime, "export_depthwise": settings.export_depthwise}
    for key, value in others.items():
        if value != NATIVE:
            raise UserError(
                f"readers of this format know Paddle's own operators only; it needs Global.{key}={NATIVE}, got {value}",
                code="deploy.unknown-program",
                where=KEY,
            )
    if not hasattr(getattr(paddle, "pir_utils", None), "OldIrGuard"):
        raise UserError(
            f"Paddle {paddle.__version__} does not write this format any more; Paddle 3.0 to 3.3 do",
            code="deploy.no-format",
            where=KEY,
        )


def write(network: nn.Layer, config: Config, folder: Path, precisions: Sequence[str]) -> None:
    """Write the program, and the weights where they are not there yet.

    Raises:
        UserError: the network has an operator that Paddle no longer writes in this format.
    """
    form = lower(network)[FP32]  # a copy
    _use_legacy_gelu(form)
    model = InferenceModel(form, config.Arch.infer_add_softmax)
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        path = Path(aside) / PROGRAMS[FP32]
        try:
            with paddle.pir_utils.OldIrGuard():
                save_network(model, config.Global.image_shape, path)
        except OSError:  # the disk, not the format
            raise
        except PADDLE_ERRORS as error:
            raise UserError(
                f"{type(network).__name__} cannot be written in this format ({paddle_reason(error)}); use paddle",
                code="deploy.no-format",
                where=KEY,
            ) from error
        weights = path.with_suffix(".pdiparams")
        if (folder / WEIGHTS).exists():
            if not filecmp.cmp(weights, folder / WEIGHTS, shallow=False):
                raise RuntimeError(f"{LEGACY_FILE} was saved with other weights than {PROGRAMS[FP32]}.json")
        else:
            weights.replace(folder / WEIGHTS)
        path.with_suffix(".pdmodel").replace(folder / LEGACY_FILE)


def _use_legacy_gelu(network: nn.Layer) -> None:
    for layer in network.sublayers(include_self=True):
        for name, part in layer.named_children():
            if type(part) is nn.GELU and not part._approximate:
                setattr(layer, name, LegacyGELU())


def runtimes(folder: Path, config: Config, precisions: Sequence[str]) -> list[Runtime]:
    """Paddle Inference, and OpenVINO if it is installed."""
    device, threads = config.Global.device, config.Global.num_threads or default_threads()
    settings = inference_config(folder / LEGACY_FILE, folder / WEIGHTS, device, threads)
    predictor = paddle.inference.create_predictor(settings)

    def run(images: np.ndarray) -> np.ndarray:
        (outputs,) = predictor.run([paddle.to_tensor(images)])
        return outputs.numpy()

    return [Runtime("pdmodel", run), *openvino_runtime("pdmodel", folder / LEGACY_FILE, threads)]
