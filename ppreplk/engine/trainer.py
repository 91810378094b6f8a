"""The training loop."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import paddle
from paddle import nn

from ..config import Config
from ..data import build_loader
from ..errors import UserError
from ..weights import load_checkpoint, load_weights
from . import checkpoint
from .build import build_loss, build_metric, build_network, build_optimizer, build_schedule, prepare_dataset
from .checkpoint import TrainState
from .ema import ExponentialMovingAverage
from .evaluate import evaluate
from .log import Averages, Stopwatch, log_to_file, progress
from .runtime import choose_seed, seed_step, set_up_device

logger = logging.getLogger(__name__)


class Trainer:
    """Everything one training needs, built and checked before the first file is written.

    Raises:
        UserError: missing data, or a configuration that does not fit.
    """

    def __init__(self, config: Config):
        self.config = config
        settings = config.Global
        if paddle.distributed.get_world_size() > 1:
            raise UserError("this version trains in one process; start it without paddle.distributed.launch")
        if settings.checkpoints is not None:
            self.state = checkpoint.read_state(settings.checkpoints, with_ema=config.EMA is not None)
        else:
            self.state = TrainState(choose_seed(settings.seed))
        seed = self.state.seed
        prepare_dataset(config)
        class_num = config.Arch.class_num
        self.loader = build_loader(config.require("DataLoader.Train"), class_num, seed)
        self.eval_loader = None
        if settings.eval_during_train:
            self.eval_loader = build_loader(config.require("DataLoader.Eval"), class_num, seed)

        # A step is one update of the weights: update_freq batches. An epoch is a whole number of steps.
        self.update_freq = settings.update_freq
        if len(self.loader) < self.update_freq:
            raise UserError(
                f"Global.update_freq: {self.update_freq} batches make one step, but an epoch has {len(self.loader)}"
            )
        self.batches = len(self.loader) // self.update_freq * self.update_freq

        loss = config.require("Loss")
        self.criterion = build_loss(loss.Train)
        self.eval_criterion = build_loss(loss.Eval) if loss.Eval else None
        self.metric = build_metric(config.Metric.Train)
        self.eval_metric = build_metric(config.Metric.Eval)
        if self.metric is not None and self.loader.mixes:
            logger.info("training accuracy is not measured: mixed images have no single class")
            self.metric = None
        if self.eval_loader is not None and self.eval_metric is None:
            raise UserError("Metric.Eval: needed to choose the best model; give TopkAcc, or eval_during_train: False")

        logger.info("%s", set_up_device(settings))
        paddle.seed(seed)
        self.model = build_network(config.Arch)
        optimizer_config = config.require("Optimizer")
        self.schedule = build_schedule(optimizer_config, settings.epochs, self.batches // self.update_freq)
        self.optimizer = build_optimizer(optimizer_config, self.schedule, self.model)
        if settings.pretrained_model is not None and settings.checkpoints is None:
            load_weights(self.model, load_checkpoint(settings.pretrained_model), settings.pretrained_model)
        self.ema = ExponentialMovingAverage(self.model, config.EMA.decay) if config.EMA else None
        if settings.checkpoints is not None:
            checkpoint.restore(settings.checkpoints, self.model, self.optimizer, self.ema)
            logger.info("resumed from %s after epoch %d of %d", settings.checkpoints, self.state.epoch, settings.epochs)

    def fit(self) -> TrainState:
        """Train to the last epoch, evaluating and saving on the way.

        Raises:
            UserError: a loss that is not finite, an unreadable image, a full disk.
        """
        settings = self.config.Global
        output = Path(settings.output_dir)
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Global.output_dir: cannot create {output} ({error.strerror})") from error
        if not os.access(output, os.W_OK):
            raise UserError(f"Global.output_dir: {output} cannot be written to")
        with log_to_file(output / "train.log"):
            if settings.checkpoints is None and (output / "latest.pdparams").exists():
                logger.warning("%s holds an earlier run, whose checkpoints will be overwritten", output)
            for epoch in range(self.state.epoch + 1, settings.epochs + 1):
                self.train_epoch(epoch)
                self.state.epoch = epoch
                due = epoch % settings.eval_interval == 0 and epoch >= settings.start_eval_epoch
                if self.eval_loader is not None and (due or epoch == settings.epochs):
                    self.evaluate_epoch(epoch, output)
                if settings.save_interval > 0 and epoch % settings.save_interval == 0:
                    self.save(output / f"epoch_{epoch}")
                self.save(output / "latest")
        return self.state

    def train_epoch(self, epoch: int) -> None:
        """One pass over the training images."""
        settings = self.config.Global
        self.model.train()
        self.loader.set_epoch(epoch)
        averages, watch = Averages(), Stopwatch()
        with progress(self.loader, self.batches, f"epoch {epoch}/{settings.epochs}") as batches:
            for iteration, (images, labels) in enumerate(batches):
                watch.batch_read()
                seed_step(self.state.seed, epoch, iteration)
                logits, losses = self.train_step(images, labels, update=(iteration + 1) % self.update_freq == 0)
                count = images.shape[0]
                values = {name: float(value) * count for name, value in losses.items()}
                if self.metric is not None:
                    values = {**self.metric(logits, labels), **values}
                averages.add(values, count)
                if not values["loss"] - values["loss"] == 0:  # NaN or infinite
                    raise UserError(self._not_finite(epoch, iteration, values["loss"] / count, images))
                watch.batch_done(count)
                if iteration % settings.print_batch_step == 0:
                    left = (settings.epochs - epoch + 1) * self.batches - iteration - 1
                    logger.info(
                        "[Train][Epoch %d/%d][Iter: %d/%d]lr: %.8f, %s, %s",
                        *(epoch, settings.epochs, iteration, self.batches),
                        *(self.optimizer.get_lr(), averages, watch.line(left)),
                    )
                    watch.reset()
                if iteration + 1 == self.batches:
                    break
        logger.info("[Train][Epoch %d/%d][Avg]%s", epoch, settings.epochs, averages)

    def train_step(
        self, images: paddle.Tensor, labels: paddle.Tensor, update: bool
    ) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """Forward and backward on one batch; with ``update``, one step of optimizer, schedule and average."""
        logits = self.model(images)
        losses = self.criterion(logits, labels)
        (losses["loss"] / self.update_freq).backward()
        if update:
            self.optimizer.step()
            self.optimizer.clear_grad()
            self.schedule.step()
            if self.ema:
                self.ema.update(self.model)
            self.state.step += 1
        return logits, losses

    def evaluate_epoch(self, epoch: int, output: Path) -> None:
        """Evaluate, and save the best model so far. With EMA, the averaged network decides."""
        networks = {"": self.model, " ema": self.ema.model} if self.ema else {"": self.model}
        for label, network in networks.items():
            results = evaluate(
                network,
                self.eval_loader,
                self.eval_metric,
                self.eval_criterion,
                self.config.Global.print_batch_step,
                f"[Epoch {epoch}{label}]",
            )
        metric = results[f"top{self.eval_metric.topk[0]}"]
        if metric >= self.state.best_metric:
            self.state.best_metric, self.state.best_epoch = metric, epoch
            self.save(output / "best_model")
        logger.info(
            "[Eval][Epoch %d][best metric: %.5f, epoch %d]", epoch, self.state.best_metric, self.state.best_epoch
        )

    def save(self, prefix: Path) -> None:
        checkpoint.save(prefix, self.model, self.optimizer, self.state, self.ema)
        logger.info("saved %s", prefix)

    def _not_finite(self, epoch: int, iteration: int, loss: float, images: paddle.Tensor) -> str:
        return (
            f"the loss is {loss} in epoch {epoch}, iteration {iteration}; {first_non_finite(self.model, images)}; "
            "lower Optimizer.lr.learning_rate or lengthen the warm-up; saved checkpoints are untouched"
        )


@paddle.no_grad()
def first_non_finite(model: nn.Layer, images: paddle.Tensor) -> str:
    """Where NaN or infinity appears first when ``images`` pass through ``model``, in words."""
    if not bool(paddle.isfinite(images).all()):
        return "the images themselves are not finite"
    bad_parameters = [name for name, value in model.named_parameters() if not bool(paddle.isfinite(value).all())]
    if bad_parameters:
        return f"{len(bad_parameters)} parameters are not finite, {bad_parameters[0]} first"
    found: list[str] = []
    hooks = []
    for name, layer in model.named_sublayers():
        if not layer.sublayers():

            def look(layer, inputs, output, name=name):
                if not found and not bool(paddle.isfinite(output).all()):
                    found.append(name)

            hooks.append(layer.register_forward_post_hook(look))
    model(images)
    for hook in hooks:
        hook.remove()
    return f"the first layer with a non-finite output is {found[0]}" if found else "all layers' outputs are finite"


def train(config: Config) -> TrainState:
    """What ``tools/train.py`` does.

    Raises:
        UserError: missing data, a configuration that does not fit, or a training that diverges.
    """
    return Trainer(config).fit()
