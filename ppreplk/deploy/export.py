"""From trained weights to an inference program: merge, fold, save, and prove it by running it."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import paddle
from paddle import nn

from ..checkpoints.pretrained import build_trained_network
from ..config import Config
from ..data import prepare_dataset
from ..utils.atomic import creating, replace_files
from ..utils.device import set_up_device
from ..utils.errors import UserError
from .calibration import calibration_batches, calibration_images
from .class_names import names_of_file
from .formats import FORMATS, PROGRAM
from .inference_yml import INFERENCE_YAML, write_inference_yml
from .network_names import class_names
from .passport import FILE as PASSPORT
from .passport import write_passport
from .programs import BF16, FP32, INT8, check_place
from .verify import Verification, verify

logger = logging.getLogger(__name__)

STAGING = ".partial-"
MAX_EXPORT_SECONDS = 24 * 3600  # an older staging folder belongs to no running export


def export(config: Config, precision: str = FP32) -> Path:
    """Write ``inference.*`` to ``Global.save_inference_dir``, as ``tools/export.py`` does.

    The files are written to a folder aside and run on real and random images, by everything installed here that reads
    them. Only when all agree with the train-form network in eval mode are they moved into place.

    Args:
        config: names the network, its weights, the folder, the formats and the kind of program.
        precision: ``"fp32"``, or ``"fp32-bf16x3"``, ``"bf16"`` or ``"int8"`` for a second program beside the float32
            one, with the same weights file.

    Returns:
        The folder.

    Raises:
        UserError: weights that do not fit or are not finite, a format that cannot be made here, a folder that cannot be
            written, no images to calibrate an int8 program with; a file whose outputs are further from the network's
            than ``Global.export_tolerance`` (``export_tolerance_bf16x3`` and so on) allows; or an int8 program that
            decides otherwise than the float32 one more often than ``Global.export_agreement_int8`` allows.
    """
    logger.info("%s", set_up_device(config.Global.device, config.Global.num_threads))
    config.require("Infer")
    precisions = [FP32] if precision == FP32 else [FP32, precision]
    formats = {name: FORMATS[name] for name in config.Global.export_formats}
    if precision != FP32 and PROGRAM not in formats:
        raise UserError(
            f"the {precision} program needs the format {PROGRAM}", code="deploy.precision", where="Global.export_format"
        )
    for each in formats.values():
        each.check(config, precisions)
    check_place(config.Global.save_inference_dir, "Global.save_inference_dir")
    prepare_dataset(config)
    names_of_file(config)  # refused before the work, if they do not fit
    calibrated_with = calibration_images(config) if precision == INT8 else None
    if calibrated_with:
        if calibrated_with.why:
            logger.warning("none of DataLoader.Train's images can be used for calibration: %s", calibrated_with.why)
        logger.info("calibrating on %d images of %s", len(calibrated_with.paths), calibrated_with.split)
    network = build_trained_network(config)
    _check_weights(network)
    target = Path(config.Global.save_inference_dir)
    with creating(target, "Global.save_inference_dir"):
        with _writing_to(target):
            _clear_old_staging(target)
            staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=target))
        try:
            with _writing_to(target):
                for each in formats.values():
                    each.write(network, config, staging, precisions)
            runtimes = [run for each in formats.values() for run in each.runtimes(staging, config, precisions)]
            results = verify(network, config, runtimes, calibration_batches(config, calibrated_with))
            for result in results:
                _check_difference(result, config)
            with _writing_to(target):
                write_inference_yml(config, class_names(config), staging / INFERENCE_YAML, precisions[-1])
                files = {
                    name: [file for file in each.files if (staging / file).exists()] for name, each in formats.items()
                }
                write_passport(staging, config, files, results, calibrated_with)
                names = {file for each in FORMATS.values() for file in each.files}
                replace_files(staging, target, sorted(names - {path.name for path in staging.iterdir()}))
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    saved = sorted({file for names in files.values() for file in names})
    logger.info("saved %s with %s and %s in %s", ", ".join(saved), INFERENCE_YAML, PASSPORT, target)
    return target


def _check_weights(network: nn.Layer) -> None:
    """Logits may be finite all the same: a ReLU can turn NaN into zero."""
    names = [
        name
        for name, value in network.state_dict().items()
        if value.is_floating_point() and not paddle.isfinite(value).all()
    ]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise UserError(
            f"export failed: the weights hold NaN or infinite values ({names[0]}{more}); use an earlier checkpoint",
            code="deploy.not-finite",
        )


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
        with contextlib.suppress(FileNotFoundError):  # its export has just ended
            if time.time() - left.stat().st_mtime > MAX_EXPORT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _check_difference(result: Verification, config: Config) -> None:
    logger.info(
        "largest difference of the logits, %s against train-form network: %.3g (largest logit %.3g)",
        *(result.runtime.name, result.difference, result.scale),
    )
    precision = result.runtime.precision
    if precision == INT8:
        text = "the int8 and the fp32 program put the same class first for %d of %d real images, calibration included"
    else:
        text = "the same class comes first for %d of %d real images"
    logger.info(text, result.same, result.real)
    advice = f"; try more of Global.export_calibration_images, or --precision {BF16}" if precision == INT8 else ""
    key = "export_tolerance" if precision == FP32 else f"export_tolerance_{precision.rpartition('-')[2]}"
    tolerance = getattr(config.Global, key)
    if not result.difference <= tolerance * max(result.scale, 1.0):
        raise UserError(
            f"export failed: the {result.runtime.name} differs from the network by {result.difference:.3g}, more than "
            f"Global.{key} {tolerance:g} of the largest logit {result.scale:.3g}; nothing was written{advice}",
            code="deploy.wrong-program",
        )
    agreement = config.Global.export_agreement_int8
    if precision == INT8 and result.same < agreement * result.real:
        raise UserError(
            f"export failed: the {result.runtime.name} puts the class of the {FP32} program first for {result.same} of "
            f"{result.real} real images, fewer than Global.export_agreement_int8 {agreement:g} of them; nothing was "
            f"written{advice}",
            code="deploy.wrong-program",
        )
