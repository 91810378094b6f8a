"""From trained weights to an inference program: merge, fold, save, and prove it by running it."""

from __future__ import annotations

import contextlib
import filecmp
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import paddle
import yaml
from paddle import nn

from ..checkpoints.pretrained import build_trained_network
from ..config import Config
from ..utils.atomic import creating, replace_files
from ..utils.device import set_up_device
from ..utils.errors import UserError
from .class_names import names_of_file
from .lowering import check_lowering, lower
from .network_names import class_names
from .programs import FP32, INFERENCE_YAML, PROGRAMS, check_place
from .verify import Verification, verify

logger = logging.getLogger(__name__)

STAGING = ".partial-"
MAX_EXPORT_SECONDS = 24 * 3600  # an older staging folder belongs to no running export


class InferenceModel(nn.Layer):
    """The folded network, with a softmax behind it unless told otherwise, as PaddleClas exports it."""

    def __init__(self, network: nn.Layer, softmax: bool):
        super().__init__()
        self.network = network
        self.softmax = nn.Softmax() if softmax else nn.Identity()

    def forward(self, images):
        return self.softmax(self.network(images))


def export(config: Config, precision: str = FP32) -> Path:
    """Write ``inference.*`` to ``Global.save_inference_dir``, as ``tools/export.py`` does.

    The programs are written to a folder aside and run with Paddle Inference on real and random images. Only when
    they agree with the train-form network in eval mode are they moved into place.

    Args:
        config: names the network, its weights, the folder, and the kind of program.
        precision: ``"fp32"``, or ``"bf16"`` for a second program beside the float32 one, with the same weights file.

    Returns:
        The folder.

    Raises:
        UserError: weights that do not fit, a folder that cannot be written, or a program whose outputs are
            further from the network's than ``Global.export_tolerance`` (``export_tolerance_bf16``) allows.
    """
    logger.info("%s", set_up_device(config.Global.device, config.Global.num_threads))
    config.require("Infer")
    check_lowering(config.Global.export_runtime, precision, config.Global.export_depthwise)
    check_place(config.Global.save_inference_dir, "Global.save_inference_dir")
    names_of_file(config)  # refused before the work, if they do not fit
    network = build_trained_network(config)
    precisions = [FP32] if precision == FP32 else [FP32, precision]
    target = Path(config.Global.save_inference_dir)
    with creating(target, "Global.save_inference_dir"):
        with _writing_to(target):
            _clear_old_staging(target)
            staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=target))
        try:
            with _writing_to(target):
                save_programs(network, config, staging, precisions)
            for each, result in verify(network, config, staging, precisions).items():
                _check_difference(result, each, config)
            stale = [f"{PROGRAMS[left]}.json" for left in set(PROGRAMS) - set(precisions)]
            with _writing_to(target):
                replace_files(staging, target, stale)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    programs = " and ".join(str(target / f"{PROGRAMS[each]}.json") for each in precisions)
    logger.info("saved %s with %s.pdiparams, and %s beside them", programs, PROGRAMS[FP32], INFERENCE_YAML)
    return target


@contextlib.contextmanager
def _writing_to(target: Path) -> Iterator[None]:
    """Turn an error of the file system into a :class:`UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to {target} ({error.strerror or error})",
            code="deploy.cannot-write",
            where="Global.save_inference_dir",
        ) from error


def _clear_old_staging(target: Path) -> None:
    """Remove folders that killed exports left. A young folder may belong to an export that is running."""
    for left in target.glob(f"{STAGING}*"):
        if time.time() - left.stat().st_mtime > MAX_EXPORT_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _check_difference(result: Verification, precision: str, config: Config) -> None:
    logger.info(
        "largest difference of the logits, %s program against train-form network: %.3g (largest logit %.3g)",
        *(precision, result.difference, result.scale),
    )
    logger.info("the same class comes first for %d of %d real images", result.same, result.real)
    key = "export_tolerance" if precision == FP32 else f"export_tolerance_{precision}"
    tolerance = getattr(config.Global, key)
    if not result.difference <= tolerance * max(result.scale, 1.0):
        raise UserError(
            f"export failed: the saved program differs from the network by {result.difference:.3g}, which is more than "
            f"Global.{key} {tolerance:g} of the largest logit {result.scale:.3g}; nothing was written",
            code="deploy.wrong-program",
        )


def save_programs(network: nn.Layer, config: Config, folder: Path, precisions: Sequence[str]) -> None:
    """Write ``network`` in inference form to ``folder``: a program for each precision, and inference.yml.

    All programs share one file of weights.
    """
    settings = config.Global
    forms = lower(network, settings.export_runtime, precisions, settings.export_depthwise)
    for precision, form in forms.items():
        model = InferenceModel(form, config.Arch.infer_add_softmax)
        model.eval()
        path = folder / PROGRAMS[precision]
        save_network(model, settings.image_shape, path)
        if precision != FP32:
            weights = path.with_suffix(".pdiparams")
            if not filecmp.cmp(weights, folder / f"{PROGRAMS[FP32]}.pdiparams", shallow=False):
                raise RuntimeError(f"the {precision} program was saved with other weights than the {FP32} one")
            weights.unlink()
    _write_inference_yaml(config, folder / INFERENCE_YAML, precisions[-1])


def save_network(model: nn.Layer, image_shape: Sequence[int], path: Path) -> None:
    """Write ``path``.json and ``path``.pdiparams for any number of images of (C, H, W)."""
    spec = [paddle.static.InputSpec([None, *image_shape], "float32")]
    paddle.jit.save(paddle.jit.to_static(model, input_spec=spec, full_graph=True), str(path))


def _write_inference_yaml(config: Config, path: Path, precision: str) -> None:
    """Write transforms, class names and the shape of images: what a user of the program needs beside it."""
    infer = config.require("Infer")
    content = {
        "Global": {
            "model_name": config.Arch.name,
            "image_shape": config.Global.image_shape,
            "precision": precision,
        },
        "PreProcess": {"transform_ops": [{op.name: dict(op.arguments) or None} for op in infer.transforms]},
        "PostProcess": {
            "Topk": {
                "topk": infer.PostProcess.topk,
                "add_softmax": not config.Arch.infer_add_softmax,
                "label_list": class_names(config),
            }
        },
    }
    path.write_text(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True), encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """Writes texts so that they are read as they were: PyYAML leaves U+0085 as it is, and reads it as a line end."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\x85" in text else None)


_Dumper.add_representer(str, _Dumper.represent_text)
