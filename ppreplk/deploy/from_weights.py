"""Prediction with trained weights, without an exported program."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from ..checkpoints.apply import load_weights
from ..checkpoints.convert import load_checkpoint
from ..checkpoints.pretrained import build_trained_network
from ..config import RGB, Config, PostProcessConfig
from ..models.inference_form import inference_form
from ..models.preprocessing import Preprocessing
from ..models.registry import recognise
from ..utils.errors import UserError
from .class_names import IMAGENET_NAMES, class_file, read_class_names
from .classifier import Classifier
from .network_names import class_names
from .predict import Prediction

logger = logging.getLogger(__name__)

IMAGENET_CLASSES = 1000
TOPK = 5  # classes that are shown of converted weights


def network_classifier(config: Config) -> Classifier:
    """Predict with the weights of ``Global.pretrained_model``, in eval mode."""
    infer = config.require("Infer")
    post = infer.PostProcess
    network = build_trained_network(config)
    channels = config.Arch.in_channels
    return Classifier(_runner(network), infer.transforms, post.topk, class_names(config), True, channels)


def predict_with_weights(
    weights: str | Path, image: str, size: int | None = None, published_as: str | Path | None = None
) -> Prediction:
    """The five likeliest classes of one image, by a network of the weights' own architecture.

    Args:
        weights: a checkpoint file of any layout, in train or merged form.
        image: the file.
        size: side of the network's input in pixels; without it, that of the published weights of this name.
        published_as: the name the weights were published under, where ``weights`` is called otherwise.

    Raises:
        UserError: the file holds no classifier, or the image cannot be read.
    """
    state = load_checkpoint(weights)
    recognised = recognise(state, str(weights))
    if recognised.class_num is None:
        raise UserError(
            "holds a backbone without a head, which predicts no classes", code="deploy.backbone", where=str(weights)
        )
    preprocessing = recognised.preprocessing(published_as or weights) or Preprocessing()
    if size is not None:
        preprocessing = replace(preprocessing, size=size)
    logger.info("%s: %s, %d pixels", image, preprocessing, preprocessing.size)
    network = recognised.build()
    load_weights(network, state, str(weights))
    names = None
    if recognised.class_num == IMAGENET_CLASSES and class_file(IMAGENET_NAMES).is_file():
        names = read_class_names(PostProcessConfig(class_id_map_file=IMAGENET_NAMES))
    channels = recognised.arguments.get("in_channels", RGB)
    classifier = Classifier(_runner(network), preprocessing.transforms(), TOPK, names, True, channels)
    return classifier(image)[0]


def _runner(network: nn.Layer) -> Callable[[np.ndarray], np.ndarray]:
    """``network`` as a function of arrays, see :func:`~ppreplk.models.inference_form.inference_form`."""
    form = inference_form(network)

    @paddle.no_grad()
    def run(images: np.ndarray) -> np.ndarray:
        return form(paddle.to_tensor(images)).numpy()

    return run
