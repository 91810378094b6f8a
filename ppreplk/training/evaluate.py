"""Evaluation on a labelled data set."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import paddle
from paddle import nn

from ..checkpoints.pretrained import build_trained_network
from ..checkpoints.trained_classes import trained_classes
from ..config import Config
from ..data import Loader, build_dataset, build_loader, prepare_dataset
from ..data.classes import check_same_classes
from ..nn import eval_mode
from ..utils.device import set_up_device
from ..utils.errors import UserError
from ..utils.log import progress
from .losses import CombinedLoss, build_loss
from .meters import Averages, Stopwatch
from .metrics import TopkAcc, build_metric
from .precision import Precision

logger = logging.getLogger(__name__)


@paddle.no_grad()
def evaluate(
    model: nn.Layer,
    loader: Loader,
    metric: TopkAcc | None,
    criterion: CombinedLoss | None,
    print_every: int,
    label: str = "",
    precision: Callable[[], AbstractContextManager] = nullcontext,
) -> dict[str, float]:
    """Compute metrics and losses in eval mode, over all images of ``loader`` in all processes.

    Args:
        model: (N, 3, H, W) -> (N, K); its mode is restored afterwards.
        loader: the images.
        metric, criterion: what to compute; either may be None.
        print_every: batches between log lines.
        label: head of the log lines.
        precision: makes the context of each forward pass.

    Returns:
        {"top1": share of hits, ..., "loss": mean}.
    """
    averages, watch = Averages(), Stopwatch()
    loader.set_epoch(0)
    with eval_mode(model), progress(loader, len(loader), "eval") as batches:
        for iteration, (images, labels) in enumerate(batches):
            watch.batch_read()
            with precision():
                logits = model(images).astype("float32")
            count = images.shape[0]
            if metric is not None:
                averages.add(metric(logits, labels), count)
            if criterion is not None:
                averages.add({name: float(value) * count for name, value in criterion(logits, labels).items()}, count)
            watch.batch_done(count)
            if iteration % print_every == 0:
                logger.info("[Eval]%s[Iter: %d/%d]%s, %s", label, iteration, len(loader), averages, watch.line())
                watch.reset()
    averages = averages.over_processes()
    logger.info("[Eval]%s[Avg]%s", label, averages)
    return averages.means()


def evaluate_config(config: Config) -> dict[str, float]:
    """Do what ``tools/eval.py`` does: evaluate ``Global.pretrained_model`` on ``DataLoader.Eval``.

    Raises:
        UserError: missing data, missing weights, or a configuration that does not fit.
    """
    split = config.require("DataLoader.Eval")
    prepare_dataset(config)
    dataset = build_dataset(split.dataset, config.Arch.class_num, config.Global.seed or 0)
    metric = build_metric(config.Metric.Eval)
    criterion = build_loss(config.Loss.Eval) if config.Loss and config.Loss.Eval else None
    if metric is None and criterion is None:
        raise UserError("nothing to evaluate: give Metric.Eval or Loss.Eval", code="training.nothing-to-evaluate")
    logger.info("%s", set_up_device(config.Global.device, config.Global.num_threads))
    loader = build_loader(split, dataset, config.Arch.class_num)
    model = build_trained_network(config)
    weights = config.require("Global.pretrained_model")
    if (trained := trained_classes(weights)) is not None:
        check_same_classes(dataset.classes, dataset.source, trained, f"the training of {weights}")
    precision = Precision(config.AMP, config.Global.device)
    every = config.Global.print_batch_step
    return evaluate(model, loader, metric, criterion, every, precision=precision.evaluation)
