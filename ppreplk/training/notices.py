"""What a training says before it starts: what it takes from a checkpoint, and what might surprise."""

from __future__ import annotations

import logging
from pathlib import Path

from ..config import GlobalConfig
from ..utils.distributed import processes
from .checkpoint import Checkpoint

logger = logging.getLogger(__name__)


def log_start(settings: GlobalConfig, resumed: Checkpoint | None, form: str | None) -> None:
    """Log what a training begins with.

    Args:
        settings: the section ``Global``.
        resumed: the checkpoint it goes on from.
        form: of the network, see :func:`ppreplk.nn.merge.form_of`.
    """
    output = Path(settings.output_dir)
    if resumed is not None:
        _log_resumption(settings, resumed, output)
    if (output / "latest.pdparams").exists() and not (resumed and _is_in(output, resumed)):
        logger.warning("%s holds an earlier run, whose checkpoints will be overwritten", output)
    if form == "merged":
        logger.warning(
            "the network is merged (Arch.merged): its large kernels train without parallel branches and batch "
            "normalizations, and its checkpoints fit merged networks only"
        )


def _log_resumption(settings: GlobalConfig, resumed: Checkpoint, output: Path) -> None:
    """Say what the checkpoint decides, above all where the configuration says something else."""
    state = resumed.state
    logger.info("resumed from %s after epoch %d of %d", resumed.prefix, state.epoch, settings.epochs)
    if state.epoch >= settings.epochs:
        logger.warning("nothing is left to do: raise Global.epochs to train on")
    if settings.seed is not None and settings.seed != state.seed:
        logger.warning("Global.seed is %d; the checkpoint's seed, %d, counts", settings.seed, state.seed)
    if settings.pretrained_model is not None:
        logger.warning("Global.pretrained_model is not read: the weights are those of Global.checkpoints")
    moved = not _is_in(output, resumed)
    if moved:
        source = Path(resumed.prefix).parent
        logger.warning("the run was saved in %s, it goes on in %s (Global.output_dir)", source, output)
    if state.best_epoch > 0:
        note = f"; {output / 'best_model'} is written once that is reached" if moved else ""
        logger.info("best metric so far: %.5f, epoch %d%s", state.best_metric, state.best_epoch, note)


def _is_in(folder: Path, checkpoint: Checkpoint) -> bool:
    return Path(checkpoint.prefix).absolute().parent.resolve() == folder.resolve()


def log_global_batch(settings: GlobalConfig, batch_size: int) -> None:
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
