"""Evaluation on a labelled data set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import paddle
from paddle import nn

from ..checkpoints.kept_weights import KeptWeights, kept_weights
from ..checkpoints.pretrained import build_trained_network, load_pretrained
from ..checkpoints.trained_classes import trained_classes
from ..config import Config
from ..data import Loader, build_dataset, build_loader, prepare_dataset
from ..data.classes import check_same_classes
from ..data.datasets import ImageDataset
from ..models.inference_form import inference_form
from ..nn import eval_mode
from ..utils.device import set_up_device
from ..utils.errors import UserError
from ..utils.log import progress
from .losses import CombinedLoss, build_loss
from .meters import Averages, PendingValues, Stopwatch
from .metrics import TopkAcc, batch_values, build_metric
from .outputs import Outputs
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
    outputs: Outputs | None = None,
) -> dict[str, float]:
    """Compute metrics and losses in eval mode, over all images of ``loader`` in all processes.

    Args:
        model: (N, 3, H, W) -> (N, K); its mode is restored afterwards.
        loader: the images.
        metric, criterion: what to compute; either may be None.
        print_every: batches between log lines.
        label: head of the log lines.
        precision: makes the context of each forward pass.
        outputs: to keep logits and labels in.

    Returns:
        {"top1": share of hits, ..., "loss": mean}.
    """
    averages, watch, pending = Averages(), Stopwatch(), PendingValues()
    loader.set_epoch(0)
    with eval_mode(model), progress(loader, len(loader), "eval") as batches:
        for iteration, (images, labels) in enumerate(batches):
            watch.batch_read()
            if outputs is not None:
                outputs.batch_read()
            with precision():
                logits = model(images).astype("float32")
            if outputs is not None:
                outputs.keep(logits, labels)
            losses = {} if criterion is None else criterion(logits, labels)
            pending.add(0, iteration, images.shape[0], *batch_values(logits, labels, metric, losses))
            watch.batch_done(images.shape[0])
            if iteration % print_every == 0:
                _settle(pending, averages, metric)
                logger.info("[Eval]%s[Iter: %d/%d]%s, %s", label, iteration, len(loader), averages, watch.line())
                watch.reset()
    _settle(pending, averages, metric)
    averages = averages.over_processes()
    logger.info("[Eval]%s[Avg]%s", label, averages)
    return averages.means()


def _settle(pending: PendingValues, averages: Averages, metric: TopkAcc | None) -> None:
    """Wait for the device, and add what it has computed since the last call."""
    hits = metric.names if metric is not None else []
    for batch in pending.read():
        averages.add(batch.sums(hits), batch.images)


class Evaluated(NamedTuple):
    """One evaluation: of which weights, its results, what the network answered if that was kept, and on what."""

    weights: KeptWeights
    results: dict[str, float]
    outputs: Outputs | None
    dataset: ImageDataset


def evaluate_config(config: Config, choice: str | None = None) -> dict[str, float]:
    """Do what ``tools/eval.py`` does: evaluate ``Global.pretrained_model`` on ``DataLoader.Eval``.

    Args:
        config: the configuration.
        choice: raw weights, averaged ones or both, see :func:`~ppreplk.checkpoints.kept_weights.kept_weights`.

    Returns:
        What :func:`evaluate` returns, of the averaged weights for ``both``.

    Raises:
        UserError: missing data, missing weights, or a configuration that does not fit.
    """
    return [evaluated.results for evaluated in evaluate_kept(config, choice)][-1]


def evaluate_kept(config: Config, choice: str | None = None, keep_outputs: bool = False) -> Iterator[Evaluated]:
    """Evaluate one set of weights after the other on ``DataLoader.Eval``.

    Args:
        config, choice: see :func:`evaluate_config`.
        keep_outputs: keep logits and labels. All images then come once, whatever ``DataLoader.Eval.sampler`` says.

    Raises:
        UserError: see :func:`evaluate_config`.
    """
    split = config.require("DataLoader.Eval")
    if keep_outputs:
        split.sampler.shuffle = split.sampler.drop_last = False
    prepare_dataset(config)
    arch, seed = config.Arch, config.Global.seed or 0
    dataset = build_dataset(split.dataset, arch.class_num, seed, arch.in_channels)
    metric = build_metric(config.Metric.Eval)
    criterion = build_loss(config.Loss.Eval, arch.class_num) if config.Loss and config.Loss.Eval else None
    if metric is None and criterion is None:
        raise UserError("nothing to evaluate: give Metric.Eval or Loss.Eval", code="training.nothing-to-evaluate")
    logger.info("%s", set_up_device(config.Global.device, config.Global.num_threads))
    loader = build_loader(split, dataset, config.Arch.class_num)
    model = build_trained_network(config)
    named = config.require("Global.pretrained_model")
    if (trained := trained_classes(named)) is not None:
        check_same_classes(dataset.classes, dataset.source, trained, f"the training of {named}")
    precision = Precision(config.AMP, config.Global.device)
    every = config.Global.print_batch_step
    for weights in kept_weights(named, choice):
        if weights.path != config.Global.pretrained_model:
            config.Global.pretrained_model = weights.path
            load_pretrained(model, config)
        label = f"[{weights.name}]" if weights.name else ""
        outputs = Outputs(loader) if keep_outputs else None
        form = model if precision.evaluates_in_half else inference_form(model)
        results = evaluate(form, loader, metric, criterion, every, label, precision.evaluation, outputs)
        yield Evaluated(weights, results, outputs, dataset)
