"""Networks with the weights that a configuration names."""

from __future__ import annotations

import logging

from paddle import nn

from ..config import Config
from ..models.arch import build_network
from ..utils.errors import UserError
from .apply import load_weights
from .convert import load_checkpoint
from .transform_check import check_preprocessing
from .weights_folder import find_pretrained

logger = logging.getLogger(__name__)


def build_trained_network(config: Config) -> nn.Layer:
    """The network with the weights of ``Global.pretrained_model``, for evaluation, export and prediction.

    Raises:
        UserError: no weights are named, or they do not fit.
    """
    if config.Global.checkpoints is not None:
        _use_checkpoint(config)
    use_named_weights(config)
    if config.Global.pretrained_model is None:
        raise UserError(
            "Global.pretrained_model is not set; name the trained weights, for example "
            f"-o Global.pretrained_model={config.Global.output_dir.rstrip('/')}/best_model",
            code="checkpoints.none-named",
        )
    model = build_network(config.Arch)
    load_pretrained(model, config)
    model.eval()
    return model


def use_named_weights(config: Config) -> None:
    """Make the file of the weights that ``Arch.pretrained`` names ``Global.pretrained_model``, unless that is set.

    They are downloaded unless they are there.

    Raises:
        UserError: no such weights, or a download that fails.
    """
    asked, settings = config.Arch.pretrained, config.Global
    if not asked:
        return
    if settings.pretrained_model is not None:
        logger.info("Arch.pretrained is not used: the weights are those of %s", settings.pretrained_model)
        return
    try:
        settings.pretrained_model = str(find_pretrained(config.Arch.name, asked))
    except UserError as error:
        raise error.at("Arch.pretrained") from error


def _use_checkpoint(config: Config) -> None:
    """``Global.checkpoints`` names a training to go on with; without other weights, its weights are used."""
    settings = config.Global
    if settings.checkpoints == "auto":  # for training: it names no weights
        return
    if settings.pretrained_model is None:
        settings.pretrained_model = settings.checkpoints
        logger.info("taking the weights of Global.checkpoints, %s", settings.checkpoints)
    else:
        logger.warning(
            "Global.checkpoints, %s, is not read here: only training resumes; the weights are those of "
            "Global.pretrained_model, %s",
            *(settings.checkpoints, settings.pretrained_model),
        )


def load_pretrained(model: nn.Layer, config: Config, training: bool = False) -> None:
    """Put the weights of ``Global.pretrained_model`` into ``model``.

    Args:
        model: the network of ``config``.
        config: its transforms are compared with those the weights expect; a warning names differences.
        training: a head for another number of classes is then replaced by a new one, and a first convolution for RGB
            images is fitted to other channels.

    Raises:
        UserError: no such file, one that holds anything but weights, or weights that do not fit.
    """
    path = config.require("Global.pretrained_model")
    state = load_checkpoint(path)
    load_weights(model, state, path, may_replace_head=training, may_fit_stem=training)
    check_preprocessing(config, state, path, training)
