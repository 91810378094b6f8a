"""From trained weights to an inference program: merge, fold, save, and prove it by running it."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
import yaml
from paddle import nn

from .builders import build_trained_network, prepare_dataset
from .config import Config, Ops
from .data import build_dataset, build_transforms
from .data.datasets import load_image
from .data.transforms import IMAGE, NORMALIZED_CHW
from .errors import UserError
from .layers import set_implementation
from .models import RepLKNet
from .predict import INFERENCE_YAML, PROGRAM, Predictor, read_class_names
from .reparam import fold, fuse_relu, reparameterize
from .runtime import set_up_device

logger = logging.getLogger(__name__)

LEAST_LOG_PROBABILITY = -80.0  # below, a float32 probability has no digits left to compare
REAL_IMAGES = 8
RANDOM_BATCHES = (1, 3)  # batch sizes


class InferenceModel(nn.Layer):
    """The folded network, with a softmax behind it unless told otherwise, as PaddleClas exports it."""

    def __init__(self, network: nn.Layer, softmax: bool):
        super().__init__()
        self.network = network
        self.softmax = nn.Softmax() if softmax else nn.Identity()

    def forward(self, images):
        return self.softmax(self.network(images))


def export(config: Config) -> Path:
    """What ``tools/export.py`` does: write ``inference.*`` to ``Global.save_inference_dir``.

    The program is written aside, run with Paddle Inference on real and random images, compared with the
    train-form network in eval mode, and only then moved into place.

    Returns:
        The folder.

    Raises:
        UserError: weights that do not fit, a folder that cannot be written, or a program whose outputs are
            further from the network's than ``Global.export_tolerance`` allows.
    """
    logger.info("%s", set_up_device(config.Global))
    config.require("Infer")
    network = build_trained_network(config)
    target = Path(config.Global.save_inference_dir)
    is_new = not target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=target))
    except OSError as error:
        raise UserError(f"Global.save_inference_dir: cannot write to {target} ({error.strerror})") from error
    done = False
    try:
        save_program(network, config, staging)
        difference, scale = verify(network, config, staging)
        logger.info(
            "largest difference of the logits, program against train-form network: %.3g (largest logit %.3g)",
            *(difference, scale),
        )
        if not difference <= config.Global.export_tolerance * max(scale, 1.0):
            raise UserError(
                f"export failed: the saved program differs from the network by {difference:.3g}, which is more than "
                f"Global.export_tolerance {config.Global.export_tolerance:g} of the largest logit {scale:.3g}; "
                "nothing was written"
            )
        for path in sorted(staging.iterdir()):
            os.replace(path, target / path.name)
        done = True
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if is_new and not done:
            target.rmdir()
    logger.info("saved %s.json and %s.pdiparams, with %s beside them", target / PROGRAM, PROGRAM, INFERENCE_YAML)
    return target


def save_program(network: nn.Layer, config: Config, folder: Path) -> None:
    """Merge and fold a copy of ``network`` and write it to ``folder`` with its pre- and post-processing.

    A network of paddleclas's is merged only: what may be folded there is not known here.
    """
    merged = fold(network) if isinstance(network, RepLKNet) else reparameterize(network)
    implementation = config.Global.export_depthwise
    if set_implementation(merged, implementation) == 0 and implementation != "native":
        raise UserError(f"Global.export_depthwise: {config.Arch.name} has no depthwise layer for {implementation!r}")
    fuse_relu(merged)
    model = InferenceModel(merged, config.Arch.infer_add_softmax)
    model.eval()
    save_network(model, config.Global.image_shape, folder / PROGRAM)
    _write_inference_yaml(config, folder / INFERENCE_YAML)


def save_network(model: nn.Layer, image_shape: Sequence[int], path: Path) -> None:
    """Write ``path``.json and ``path``.pdiparams for any number of images of (C, H, W)."""
    spec = [paddle.static.InputSpec([None, *image_shape], "float32")]
    paddle.jit.save(paddle.jit.to_static(model, input_spec=spec, full_graph=True), str(path))


def _write_inference_yaml(config: Config, path: Path) -> None:
    """What a user of the program needs beside it: transforms, class names, image shape."""
    infer = config.Infer
    content = {
        "Global": {"model_name": config.Arch.name, "image_shape": config.Global.image_shape},
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


@paddle.no_grad()
def verify(network: nn.Layer, config: Config, folder: Path) -> tuple[float, float]:
    """Run the program in ``folder`` and ``network`` (train form, eval mode) on the same images.

    Where the program ends in a softmax, logarithms of probabilities are compared: they differ from the
    logits by one constant per image.

    Returns:
        The largest difference and the largest logit, both absolute.
    """
    network.eval()
    predictor = Predictor(folder, config.Global.device, config.Global.num_threads)
    generator = np.random.default_rng(0)
    shape = config.Global.image_shape
    batches = [generator.standard_normal((size, *shape), np.float32) for size in RANDOM_BATCHES]
    batches.append(real_images(config))
    difference = scale = 0.0
    for batch in batches:
        logits = network(paddle.to_tensor(batch)).numpy().astype(np.float64)
        if not np.isfinite(logits).all():
            raise UserError("export failed: the trained network itself gives NaN or infinite logits")
        scale = max(scale, float(np.abs(logits).max()))
        received = predictor(batch).astype(np.float64)
        if config.Arch.infer_add_softmax:
            shifted = logits - logits.max(axis=1, keepdims=True)
            logits = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            with np.errstate(divide="ignore"):
                received = np.where(logits > LEAST_LOG_PROBABILITY, np.log(received), logits)
        difference = max(difference, float(np.nan_to_num(np.abs(received - logits), nan=np.inf).max()))
    return difference, scale


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
    step = max(len(samples) // REAL_IMAGES, 1)
    return [sample.path for sample in samples[::step][:REAL_IMAGES]]


def _photographs() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return list(load_sample_images().images)
