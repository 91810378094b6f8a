"""Proof of an export: a program gives what the trained network gives, on random and on real images."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn

from ..config import RGB, Config, Ops, SplitConfig
from ..data import IMAGE, NORMALIZED_CHW, build_dataset, build_transforms, load_image
from ..utils.errors import UserError
from ..utils.optional import import_optional
from .programs import FP32, INT8

logger = logging.getLogger(__name__)

PROGRAM_NAME = "{} program"  # of a precision, as a runtime
MIN_LOG_PROBABILITY = -80.0  # below, a float32 probability has no digits left to compare
REAL_PIXELS = 8 * 224 * 224  # of all real images together
MIN_REAL_IMAGES = 8
RANDOM_BATCHES = (1, 3)  # batch sizes


class Runtime(NamedTuple):
    """One way to run an exported file.

    Args:
        name: for the log and the passport, such as ``"fp32 program"`` or ``"onnx in OpenVINO"``.
        run: images (N, C, H, W) float32 -> outputs (N, class_num).
        precision: in whose tolerance the outputs must agree with the network's.
    """

    name: str
    run: Callable[[np.ndarray], np.ndarray]
    precision: str = FP32


@dataclass
class Verification:
    """How far a file, as a runtime computes it, is from the network.

    Args:
        runtime: what ran it.
        difference: the largest absolute difference of a logit, over all images; for int8, over real ones of the
            evaluation data.
        scale: the largest absolute logit.
        same: real images for which both put the same class first; for int8, it and the float32 program.
        real: real images; for int8, those of the calibration too.
    """

    runtime: Runtime
    difference: float
    scale: float
    same: int
    real: int


@paddle.no_grad()
def verify(
    network: nn.Layer, config: Config, runtimes: Sequence[Runtime], calibration: Iterable[np.ndarray] = ()
) -> list[Verification]:
    """Run exported files and ``network`` (train form, eval mode) on the same random and real images.

    Where a file ends in a softmax, logarithms of probabilities are compared: they differ from the logits by one
    constant per image.

    An int8 program gets real images only, since random ones are far from what its ranges come from.

    Args:
        calibration: where one of the runtimes is an int8 program, the images that it was calibrated with.

    Raises:
        UserError: the network's own outputs are not finite, or the transforms make images of another shape.
    """
    network.eval()
    generator = np.random.default_rng(0)
    random = [generator.standard_normal((size, *config.Global.image_shape), np.float32) for size in RANDOM_BATCHES]
    batches = [*random, real_images(config)]
    logits = [network(paddle.to_tensor(images)).numpy().astype(np.float64) for images in batches]
    if not all(np.isfinite(each).all() for each in logits):
        raise UserError(
            "export failed: the trained network itself gives NaN or infinite logits", code="deploy.not-finite"
        )
    results = []
    for runtime in runtimes:
        if runtime.precision == INT8:
            (float32,) = [each for each in runtimes if each.name == PROGRAM_NAME.format(FP32)]
            results.append(_verify_int8(runtime, float32, batches[-1], logits[-1], config, calibration))
            continue
        outputs = [runtime.run(images).astype(np.float64) for images in batches]
        differences = [_difference(*pair, config.Arch.infer_add_softmax) for pair in zip(outputs, logits)]
        results.append(
            Verification(
                runtime=runtime,
                difference=max(differences),
                scale=max(float(np.abs(each).max()) for each in logits),
                same=int((outputs[-1].argmax(1) == logits[-1].argmax(1)).sum()),
                real=len(logits[-1]),
            )
        )
    return results


def _verify_int8(
    runtime: Runtime,
    float32: Runtime,
    images: np.ndarray,
    logits: np.ndarray,
    config: Config,
    calibration: Iterable[np.ndarray],
) -> Verification:
    """Logits of the evaluation images against the network's, decisions for all real images against float32's."""
    outputs = runtime.run(images).astype(np.float64)
    same, real = 0, 0
    for batch in itertools.chain([images], calibration):
        decisions = [each.run(batch).argmax(1) for each in (runtime, float32)]
        same += int((decisions[0] == decisions[1]).sum())
        real += len(batch)
    return Verification(
        runtime=runtime,
        difference=_difference(outputs, logits, config.Arch.infer_add_softmax),
        scale=float(np.abs(logits).max()),
        same=same,
        real=real,
    )


def _difference(outputs: np.ndarray, logits: np.ndarray, softmax: bool) -> float:
    """The largest difference of a program's outputs from the network's logits; infinite if an output is NaN."""
    if softmax:
        shifted = logits - logits.max(axis=1, keepdims=True)
        logits = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        with np.errstate(divide="ignore"):
            outputs = np.where(logits > MIN_LOG_PROBABILITY, np.log(outputs), logits)
    return float(np.nan_to_num(np.abs(outputs - logits), nan=np.inf).max())


def real_images(config: Config) -> np.ndarray:
    """A few images after ``Infer.transforms``: of the evaluation data, or two photographs if there is none.

    Returns:
        (N, C, H, W) float32.
    """
    images = prepared_images(config, _evaluation_images(config), "verification")
    if not images:
        logger.info("verifying on two photographs of scikit-learn")
        channels = config.Arch.in_channels
        without_decoding = Ops(op for op in config.require("Infer").transforms if op.name != "DecodeImage")
        transforms = build_transforms(without_decoding, NORMALIZED_CHW, start=IMAGE, channels=channels)
        repeated = np.arange(channels) % RGB
        rng = np.random.default_rng(0)
        images = [transforms(photograph[:, :, repeated], rng) for photograph in _photographs()]
        _check_shapes(config, images)
    return np.stack(images)


def prepared_images(config: Config, paths: Sequence[str], purpose: str) -> list[np.ndarray]:
    """Images after ``Infer.transforms``, each (C, H, W) float32. Those that cannot be read are named in a warning.

    Args:
        paths: the files.
        purpose: what the warning calls it, such as ``"verification"``.

    Raises:
        UserError: the transforms make images of another shape than ``Global.image_shape``.
    """
    rng = np.random.default_rng(0)
    ops, channels = config.require("Infer").transforms, config.Arch.in_channels
    transforms = build_transforms(ops, NORMALIZED_CHW, channels=channels)
    images, failures = [], []
    for path in paths:
        try:
            images.append(load_image(path, transforms, rng))
        except UserError as error:
            failures.append(error)
    if failures:
        logger.warning(
            "images that cannot be read, and are left out of the %s: %d, %s", purpose, len(failures), failures[0]
        )
    _check_shapes(config, images)
    return images


def _check_shapes(config: Config, images: Sequence[np.ndarray]) -> None:
    shapes = sorted({image.shape for image in images} - {tuple(config.Global.image_shape)})
    if shapes:
        raise UserError(
            f"Infer.transforms make images of shape {list(shapes[0])}, but Global.image_shape is "
            f"{config.Global.image_shape}; make them equal",
            code="deploy.other-shape",
        )


def spaced_images(config: Config, split: SplitConfig, wanted: int) -> list[str]:
    """Paths of at most so many images of a split, at equal distances in its list.

    Raises:
        UserError: its list or its images are not there.
    """
    samples = build_dataset(split.dataset, config.Arch.class_num, 0, config.Arch.in_channels).samples
    count = min(wanted, len(samples))
    return [samples[index * len(samples) // count].path for index in range(count)]


def _evaluation_images(config: Config) -> list[str]:
    split = config.DataLoader.Eval
    if split is None:
        return []
    height, width = config.Global.image_shape[1:]
    try:
        return spaced_images(config, split, max(REAL_PIXELS // (height * width), MIN_REAL_IMAGES))
    except UserError as error:
        logger.info("the evaluation images cannot be used for verification: %s", error)
        return []


def _photographs() -> list[np.ndarray]:
    sklearn = import_optional(
        "sklearn.datasets",
        "without evaluation images, the program is verified on scikit-learn's two photographs",
        "pip install scikit-learn, or name images in DataLoader.Eval",
        "deploy.missing-package",
    )
    return list(sklearn.load_sample_images().images)
