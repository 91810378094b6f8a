"""One batch of a training: forward and backward pass, and an update of the weights where it is due."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import paddle
from paddle import nn
from paddle.optimizer.lr import LRScheduler

from ..utils.distributed import processes
from ..utils.seeds import seed_step
from .divergence import DivergenceWatch
from .ema import ExponentialMovingAverage
from .losses import CombinedLoss
from .meters import Averages, PendingValues
from .metrics import TopkAcc, batch_values
from .precision import Precision


class Stepper:
    """Trains on one batch after another. A *step* is one update of the weights, with the gradients of several batches.

    Args:
        model: (N, C, H, W) -> (N, K). Processes share its gradients.
        form: what computes it, see :func:`ppreplk.models.training_form.training_form`.
        optimizer: of its parameters.
        schedule: of its learning rate, by steps.
        criterion: losses of logits and labels.
        metric: hits of logits and labels, or None where images are mixed.
        precision: of the forward pass, and what scales the loss for it.
        ema: the average that follows the weights, or None.
        watch: notices numbers that are not finite.
        update_freq: batches in a step.
        seed: of random draws; they depend on it, the epoch and the iteration alone.
    """

    def __init__(
        self,
        model: nn.Layer,
        form: nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        schedule: LRScheduler,
        criterion: CombinedLoss,
        metric: TopkAcc | None,
        precision: Precision,
        ema: ExponentialMovingAverage | None,
        watch: DivergenceWatch,
        update_freq: int,
        seed: int,
    ):
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.criterion, self.metric = criterion, metric
        self.precision, self.ema, self.watch = precision, ema, watch
        self.pending = PendingValues()
        self.update_freq, self.seed = update_freq, seed
        self.network = paddle.DataParallel(form) if processes() > 1 else form  # what training calls

    def train_batch(self, epoch: int, iteration: int, images: paddle.Tensor, labels: paddle.Tensor) -> None:
        """Add the gradients of one batch; if it is the last one of a step, take the step.

        Losses and, unless images are mixed, hits stay on the device until :meth:`settle`.

        Raises:
            UserError: a loss scaler that does not recover from overflows.
        """
        seed_step(self.seed, epoch, iteration)
        complete = self.completes_step(iteration)
        with self._gradients_shared(complete):
            with self.precision.training():
                logits = self.network(images)
            logits = logits.astype("float32")
            losses = self.criterion(logits, labels)
            self.watch.loss_computed(losses["loss"])
            self.precision.backward(losses["loss"] / self.update_freq)
        self.pending.add(epoch, iteration, images.shape[0], *batch_values(logits, labels, self.metric, losses))
        if complete:
            self._take_step(epoch, iteration)

    def settle(self, averages: Averages) -> None:
        """Read what the batches since the last call have left on the device, check it, and add it to ``averages``.

        This is where a training waits for the device. Call it when a log line is due and before anything is saved, in
        all processes together.

        Raises:
            UserError: a loss or a weight is not finite; the first batch whose loss is not is named.
        """
        if not self.pending:
            return
        batches, weights_are_finite = self.pending.read_with(self.watch.weights_are_finite())
        self.watch.check(batches, weights_are_finite)
        hits = self.metric.names if self.metric is not None else []
        for batch in batches:
            if math.isfinite(batch.values["loss"]):
                averages.add(batch.sums(hits), batch.images)
            else:  # the loss scaler has skipped the step; all processes must have the same names
                averages.add(dict.fromkeys(batch.values, 0.0), 0)

    def completes_step(self, iteration: int) -> bool:
        """Whether the batch of this number, from 0 in each epoch, is the last one of a step."""
        return (iteration + 1) % self.update_freq == 0

    def _gradients_shared(self, complete: bool) -> AbstractContextManager:
        """Processes exchange gradients once per step, with its last batch."""
        return nullcontext() if complete or processes() == 1 else self.network.no_sync()

    def _take_step(self, epoch: int, iteration: int) -> None:
        self.precision.step(self.optimizer)
        self.watch.check_scale(epoch, iteration)
        self.watch.weights_updated()
        # Gradients are made anew in each step. Those that processes share lie in buffers that have to stay.
        self.optimizer.clear_grad(set_to_zero=processes() > 1)
        self.schedule.step()
        if self.ema:
            self.ema.update(self.model)
