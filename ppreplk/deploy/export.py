"""From trained weights to an inference program: merge, fold, save, and prove it by running it."""

from __future__ import annotations

import contextlib
import filecmp
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
import yaml
from paddle import nn

from ..checkpoints.pretrained import build_trained_network
from ..config import Config, Ops
from ..data import IMAGE, NORMALIZED_CHW, build_dataset, build_transforms, load_image, prepare_dataset
from ..utils.atomic import creating, replace_files
from ..utils.device import set_up_device
from ..utils.errors import UserError
from .lowering import FP32, lower, require
from .predict import read_class_names
from .programs import INFERENCE_YAML, PROGRAMS, Predictor

logger = logging.getLogger(__name__)

STAGING = ".partial-"
STAGING_SECONDS = 24 * 3600  # no export takes as long
LEAST_LOG_PROBABILITY = -80.0  # below, a float32 probability has no digits left to compare
REAL_PIXELS = 8 * 224 * 224  # in all, at least eight images
LEAST_REAL_IMAGES = 8
RANDOM_BATCHES = (1, 3)  # batch sizes


class InferenceModel(nn.Layer):
    """The folded network, with a softmax behind it unless told otherwise, as PaddleClas exports it."""

    def __init__(self, network: nn.Layer, softmax: bool):
        super().__init__()
        self.network = network
        self.softmax = nn.Softmax() if softmax else nn.Identity()

    def forward(self, images):
        return self.softmax(self.network(images))


def export(config: Config, precision: str = FP32) -> Path:
    """What ``tools/export.py`` does: write ``inference.*`` to ``Global.save_inference_dir``.

    The program is written aside, run with Paddle Inference on real and random images, compared with the
    train-form network in eval mode, and only then moved into place.

    Args:
        config: what to export, and how.
        precision: ``"fp32"``, or ``"bf16"`` for a second program beside the float32 one, with the same weights file.

    Returns:
        The folder.

    Raises:
        UserError: weights that do not fit, a folder that cannot be written, or a program whose outputs are
            further from the network's than ``Global.export_tolerance`` (``export_tolerance_bf16``) allows.
    """
    logger.info("%s", set_up_device(config.Global.device, config.Global.num_threads))
    config.require("Infer")
    require(config.Global.export_runtime, precision, config.Global.export_depthwise)
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
                _check(result, each, config)
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
    try:
        yield
    except OSError as error:
        raise UserError(f"Global.save_inference_dir: cannot write to {target} ({error.strerror or error})") from error


def _clear_old_staging(target: Path) -> None:
    """Remove what exports left that were killed; a young one may be of an export that is running."""
    for left in target.glob(f"{STAGING}*"):
        if time.time() - left.stat().st_mtime > STAGING_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _check(result: Verification, precision: str, config: Config) -> None:
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
            f"Global.{key} {tolerance:g} of the largest logit {result.scale:.3g}; nothing was written"
        )


def save_programs(network: nn.Layer, config: Config, folder: Path, precisions: Sequence[str]) -> None:
    """Write ``network`` in inference form to ``folder``, one program for each precision with one file of weights
    for all, and what a user of them needs beside."""
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
    """What a user of the program needs beside it: transforms, class names, image shape."""
    infer = config.Infer
    content = {
        "Global": {
            "model_name": config.Arch.name,
            "image_shape": config.Global.image_shape,
            "precision": precision,
        },
        "PreProcess": {"transform_ops": [{op.name: op.arguments or None} for op in infer.transforms]},
        "PostProcess": {
            "Topk": {
                "topk": infer.PostProcess.topk,
                "add_softmax": not config.Arch.infer_add_softmax,
                "label_list": read_class_names(infer.PostProcess),
            }
        },
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


@dataclass
class Verification:
    """How far a program is from the network: logits, absolute, over all images; first classes, over real ones."""

    difference: float
    scale: float  # the largest logit
    same: int  # real images with the same class first
    real: int


@paddle.no_grad()
def verify(
    network: nn.Layer, config: Config, folder: Path, precisions: Sequence[str] = (FP32,)
) -> dict[str, Verification]:
    """Run the programs in ``folder`` and ``network`` (train form, eval mode) on the same random and real images.

    Where a program ends in a softmax, logarithms of probabilities are compared: they differ from the
    logits by one constant per image.

    Raises:
        UserError: the network's own outputs are not finite, or the transforms make images of another shape.
    """
    network.eval()
    generator = np.random.default_rng(0)
    random = [generator.standard_normal((size, *config.Global.image_shape), np.float32) for size in RANDOM_BATCHES]
    batches = [*random, real_images(config)]
    logits = [network(paddle.to_tensor(images)).numpy().astype(np.float64) for images in batches]
    if not all(np.isfinite(each).all() for each in logits):
        raise UserError("export failed: the trained network itself gives NaN or infinite logits")
    results = {}
    for precision in precisions:
        predictor = Predictor(folder, config.Global.device, config.Global.num_threads, precision)
        outputs = [predictor(images).astype(np.float64) for images in batches]
        differences = [_difference(*pair, config.Arch.infer_add_softmax) for pair in zip(outputs, logits)]
        results[precision] = Verification(
            difference=max(differences),
            scale=max(float(np.abs(each).max()) for each in logits),
            same=int((outputs[-1].argmax(1) == logits[-1].argmax(1)).sum()),
            real=len(logits[-1]),
        )
    return results


def _difference(outputs: np.ndarray, logits: np.ndarray, softmax: bool) -> float:
    """The largest difference of a program's outputs from logits, infinite where one is no number."""
    if softmax:
        shifted = logits - logits.max(axis=1, keepdims=True)
        logits = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        with np.errstate(divide="ignore"):
            outputs = np.where(logits > LEAST_LOG_PROBABILITY, np.log(outputs), logits)
    return float(np.nan_to_num(np.abs(outputs - logits), nan=np.inf).max())


def real_images(config: Config) -> np.ndarray:
    """A few images through ``Infer.transforms``: of the evaluation data, else two photographs.

    Returns:
        (N, 3, H, W) float32.
    """
    rng = np.random.default_rng(0)
    transforms = build_transforms(config.Infer.transforms, NORMALIZED_CHW)
    images = [load_image(path, transforms, rng) for path in _evaluation_images(config)]
    if not images:
        logger.info("verifying on two photographs of scikit-learn")
        without_decoding = Ops(op for op in config.Infer.transforms if op.name != "DecodeImage")
        transforms = build_transforms(without_decoding, NORMALIZED_CHW, start=IMAGE)
        images = [transforms(photograph, rng) for photograph in _photographs()]
    shapes = sorted({image.shape for image in images})
    if shapes != [tuple(config.Global.image_shape)]:
        raise UserError(
            f"Infer.transforms make images of shape {list(shapes[0])}, but Global.image_shape is "
            f"{config.Global.image_shape}; make them equal"
        )
    return np.stack(images)


def _evaluation_images(config: Config) -> list[str]:
    split = config.DataLoader.Eval
    if split is None:
        return []
    prepare_dataset(config)
    try:
        samples = build_dataset(split.dataset, config.Arch.class_num, seed=0).samples
    except UserError as error:
        logger.info("the evaluation images cannot be used for verification: %s", error)
        return []
    height, width = config.Global.image_shape[1:]
    wanted = max(REAL_PIXELS // (height * width), LEAST_REAL_IMAGES)
    step = max(len(samples) // wanted, 1)
    return [sample.path for sample in samples[::step][:wanted]]


def _photographs() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return list(load_sample_images().images)
