"""What a training says before it starts: what it takes from a checkpoint, and what might surprise."""

from __future__ import annotations

import logging
from pathlib import Path

from ..config import Config, GlobalConfig
from ..utils.distributed import processes
from .checkpoint import versions
from .checkpoint_search import AUTO, Checkpoint
from .saved_configuration import differences
from .saving import is_in

logger = logging.getLogger(__name__)


def log_start(config: Config, resumed: Checkpoint | None, form: str | None) -> None:
    """Log what a training begins with.

    Args:
        config: of the training.
        resumed: the checkpoint it goes on from.
        form: of the network, see :func:`ppreplk.nn.merge.form_of`.
    """
    output = Path(config.Global.output_dir)
    if resumed is not None:
        _log_resumption(config.Global, resumed, output)
        _log_differences(config, resumed)
    elif config.Global.pretrained_model is None:
        _log_random_weights(config)
    _log_global_batch(config.Global, config.require("DataLoader.Train.sampler").batch_size)
    if (output / "latest.pdparams").exists() and not (resumed and is_in(output, resumed)):
        logger.warning(
            "%s holds an earlier run, whose checkpoints will be overwritten; Ctrl-C saves, too, Ctrl-C twice does not",
            output,
        )
    if form == "merged":
        logger.warning(
            "the network is merged (Arch.merged): its large kernels train without parallel branches and batch "
            "normalizations, and its checkpoints fit merged networks only"
        )


def _log_resumption(settings: GlobalConfig, resumed: Checkpoint, output: Path) -> None:
    """Say what the checkpoint decides, above all where the configuration says something else."""
    state = resumed.state
    logger.info("resumed from %s, %s of %d", resumed.prefix, state, settings.epochs)
    if state.epoch >= settings.epochs:
        logger.warning("nothing is left to do: raise Global.epochs to train on")
    if settings.seed is not None and settings.seed != state.seed:
        logger.warning("Global.seed is %d; the checkpoint's seed, %d, counts", settings.seed, state.seed)
    if settings.pretrained_model is not None and settings.checkpoints != AUTO:
        logger.warning("Global.pretrained_model is not read: the weights are those of Global.checkpoints")
    moved = not is_in(output, resumed)
    if moved:
        source = Path(resumed.prefix).parent
        logger.warning("the run was saved in %s, it goes on in %s (Global.output_dir)", source, output)
    if state.best_epoch > 0:
        note = f"; {output / 'best_model'} is written once that is reached" if moved else ""
        logger.info("best metric so far: %.5f, epoch %d%s", state.best_metric, state.best_epoch, note)


def _log_differences(config: Config, resumed: Checkpoint) -> None:
    """Say where the configuration, or the versions of packages, differ from those that wrote the checkpoint."""
    for key, old, new in differences(resumed.manifest.configuration, config):
        level = logging.INFO if key == "Global.epochs" else logging.WARNING
        logger.log(level, "%s is %s; the checkpoint was trained with %s", key, new, old)
    here = versions()
    others = {name: version for name, version in resumed.manifest.versions.items() if here.get(name) != version}
    if others:
        logger.info(
            "saved with %s, resumed with %s: numbers may differ in their last digits",
            *(" ".join(f"{name} {table.get(name)}" for name in others) for table in (others, here)),
        )


def _log_random_weights(config: Config) -> None:
    """Warn where a rate for a new head on trained weights meets weights that are random."""
    if "head_lr_mult" in config.require("Optimizer").arguments:
        logger.warning(
            "Optimizer.head_lr_mult is for fine-tuning, but no weights are given: the network starts from random ones; "
            "set Arch.pretrained or Global.pretrained_model"
        )


def _log_global_batch(settings: GlobalConfig, batch_size: int) -> None:
    """Warn where a learning rate meets another batch than its own. It is never rescaled behind the user's back.

    Args:
        settings: the section ``Global``.
        batch_size: images in a batch of one process.
    """
    wanted = settings.global_batch
    actual = batch_size * settings.update_freq * processes()
    if wanted is not None and actual != wanted:
        logger.warning(
            "a step has %d images, the recipe's learning rate is for %d; either set Global.update_freq to about "
            "%g, or scale Optimizer.lr.learning_rate by about %g yourself",
            *(actual, wanted, round(max(settings.update_freq * wanted / actual, 1)), actual / wanted),
        )
