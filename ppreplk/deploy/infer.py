"""Prediction of the images that a configuration names, with trained weights or with an exported program."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from ..config import Config
from ..data import find_images, prepare_dataset
from ..utils.device import set_up_device
from ..utils.errors import Incomplete, UserError
from ..utils.log import progress
from .classifier import Classifier
from .predict import Prediction
from .predictor import Predictor

logger = logging.getLogger(__name__)

MAX_NAMED = 20  # unreadable images, in the last line


def infer(config: Config, model_dir: str | None = None, precision: str | None = None) -> Iterator[Prediction]:
    """Predict the images of ``Infer.infer_imgs``, batch by batch.

    Args:
        config: with the section ``Infer``.
        model_dir: a folder with an exported program; without it, ``Global.pretrained_model`` is used.
        precision: of the program, see :class:`ppreplk.Predictor`.

    An image that cannot be read is named in a warning, and left out.

    Raises:
        Incomplete: after all predictions, if images were left out.
        UserError: no images, no readable one, no weights or program.
    """
    if precision is not None and model_dir is None:
        raise UserError(
            f"precision {precision} is that of an exported program, and none is given; use --model-dir",
            code="deploy.precision",
        )
    device = set_up_device(config.Global.device, config.Global.num_threads)
    section = config.require("Infer")
    prepare_dataset(config)
    images = find_images(section.infer_imgs, section.infer_list)
    classifier: Classifier
    if model_dir:
        classifier = Predictor(model_dir, config.Global.device, config.Global.num_threads, precision)
    else:
        from .from_weights import network_classifier  # the networks are not needed to run a program

        classifier = network_classifier(config)
    logger.info("%s, images: %d", device, len(images))
    with progress(_batches(images, section.batch_size), -(-len(images) // section.batch_size), "infer") as batches:
        failures: list[UserError] = []
        for paths in batches:
            yield from _predict_readable(classifier, paths, failures)
    if len(failures) == len(images):
        first = failures[0]
        raise first if len(images) == 1 else first.at(f"none of {len(images)} images can be used, the first")
    if failures:
        more = f"; and {len(failures) - MAX_NAMED} more, see above" if len(failures) > MAX_NAMED else ""
        raise Incomplete(
            f"{len(failures)} of {len(images)} images could not be used, the others are predicted: "
            + "; ".join(map(str, failures[:MAX_NAMED]))
            + more,
            code="deploy.unreadable-images",
        )


def _predict_readable(classifier: Classifier, paths: Sequence[str], failures: list[UserError]) -> list[Prediction]:
    """Predictions for the images of a batch that can be read; the errors of the others go to ``failures``."""
    readable, images = [], []
    for path in paths:
        try:
            images.append(classifier.prepare(path))
            readable.append(path)
        except UserError as error:
            failures.append(error)
            logger.warning("left out: %s", error)
    return classifier.classify(readable, images) if images else []


def _batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
