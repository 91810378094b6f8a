"""The training loop."""

from __future__ import annotations

import logging
import math
import os
from contextlib import nullcontext
from pathlib import Path

import paddle
from paddle import nn

from ..checkpoints.pretrained import load_pretrained
from ..config import Config
from ..data import build_dataset, build_loader
from ..data.digits import prepare_dataset
from ..models.arch import build_network
from ..utils.atomic import make_folder
from ..utils.curves import Curves
from ..utils.device import set_up_device
from ..utils.distributed import processes, rank, share_statistics
from ..utils.errors import UserError
from ..utils.log import log_to_file, progress
from ..utils.meters import Averages, Stopwatch
from ..utils.seeds import choose_seed, seed_step
from . import checkpoint
from .checkpoint import TrainState
from .ema import ExponentialMovingAverage
from .evaluate import evaluate
from .losses import build_loss
from .metrics import build_metric
from .optimizers import build_optimizer, build_schedule
from .precision import Precision

logger = logging.getLogger(__name__)


class Trainer:
    """Everything one training needs, built and checked before anything is written to ``output_dir``.

    Raises:
        UserError: missing data, or a configuration that does not fit.
    """

    def __init__(self, config: Config):
        self.config = config
        settings = config.Global
        optimizer_config = config.require("Optimizer")
        if settings.checkpoints is not None:
            self.state = checkpoint.read_state(settings.checkpoints, optimizer_config.name, config.EMA is not None)
        else:
            self.state = TrainState(choose_seed(settings.seed), optimizer_config.name)
        seed = self.state.seed
        prepare_dataset(config)
        class_num = config.Arch.class_num
        train_split = config.require("DataLoader.Train")
        dataset = build_dataset(train_split.dataset, class_num, seed)
        eval_split = config.require("DataLoader.Eval") if settings.eval_during_train else None
        eval_dataset = build_dataset(eval_split.dataset, class_num, seed) if eval_split else None

        self.device = set_up_device(settings.device, settings.num_threads)
        self.loader = build_loader(train_split, dataset, class_num)
        self.eval_loader = build_loader(eval_split, eval_dataset, class_num) if eval_split else None

        # A step is one update of the weights: update_freq batches. An epoch is a whole number of steps.
        self.update_freq = settings.update_freq
        if len(self.loader) < self.update_freq:
            raise UserError(
                f"Global.update_freq: {self.update_freq} batches make one step, but an epoch has {len(self.loader)}"
            )
        self.batches = len(self.loader) // self.update_freq * self.update_freq

        self._compare_batch(train_split.sampler.batch_size * self.update_freq * processes())

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

        paddle.seed(seed)
        self.model = build_network(config.Arch)
        steps = self.batches // self.update_freq
        if self.state.step != self.state.epoch * steps:
            raise UserError(
                f"Global.checkpoints: {self.state.epoch} epochs there are {self.state.step} steps, here "
                f"{self.state.epoch * steps}; resume with the data, batch size and update_freq it was trained with"
            )
        self.schedule = build_schedule(optimizer_config, settings.epochs, steps)
        self.optimizer = build_optimizer(optimizer_config, self.schedule, self.model)
        self.precision = Precision(config.AMP, settings.device)
        if settings.pretrained_model is not None and settings.checkpoints is None:
            load_pretrained(self.model, config, training=True)
        self.ema = ExponentialMovingAverage(self.model, config.EMA.decay) if config.EMA else None
        if settings.checkpoints is not None:
            checkpoint.restore(settings.checkpoints, self.model, self.optimizer, self.ema)
        self.precision.decorate(self.model, self.optimizer)
        self.network = paddle.DataParallel(self.model) if processes() > 1 else self.model  # what training calls
        self.curves: Curves | None = None

    def _compare_batch(self, actual: int) -> None:
        """A learning rate belongs to a batch; it is never rescaled behind the user's back."""
        wanted = self.config.Global.global_batch
        if wanted is not None and actual != wanted:
            logger.warning(
                "a step has %d images, the recipe's learning rate is for %d; either set Global.update_freq to about "
                "%g, or scale Optimizer.lr.learning_rate by about %g yourself",
                *(actual, wanted, round(max(self.update_freq * wanted / actual, 1)), actual / wanted),
            )

    def fit(self) -> TrainState:
        """Train to the last epoch, evaluating and saving on the way.

        Raises:
            UserError: a loss that is not finite, an unreadable image, a full disk.
        """
        settings = self.config.Global
        output = Path(settings.output_dir)
        if rank() > 0:
            self._fit_epochs(output)
            return self.state
        make_folder(output, "Global.output_dir")
        if not os.access(output, os.W_OK):
            raise UserError(f"Global.output_dir: {output} cannot be written to")
        with log_to_file(output / "train.log"):
            logger.info("%s, seed %d", self.device, self.state.seed)
            if settings.checkpoints is not None:
                logger.info(
                    "resumed from %s after epoch %d of %d", settings.checkpoints, self.state.epoch, settings.epochs
                )
                if self.state.epoch >= settings.epochs:
                    logger.warning("nothing is left to do: raise Global.epochs to train on")
            elif (output / "latest.pdparams").exists():
                logger.warning("%s holds an earlier run, whose checkpoints will be overwritten", output)
            self.curves = Curves(output) if settings.use_visualdl else None
            try:
                self._fit_epochs(output)
            except KeyboardInterrupt:
                if self.state.epoch > 0:
                    logger.info("stopped; go on with -o Global.checkpoints=%s", output / "latest")
                raise
            finally:
                if self.curves is not None:
                    self.curves.close()
        return self.state

    def _fit_epochs(self, output: Path) -> None:
        settings = self.config.Global
        for epoch in range(self.state.epoch + 1, settings.epochs + 1):
            self.train_epoch(epoch)
            for network in (self.model, self.ema.model) if self.ema else (self.model,):
                share_statistics(network)
            self.state.epoch = epoch
            due = epoch % settings.eval_interval == 0 and epoch >= settings.start_eval_epoch
            if self.eval_loader is not None and (due or epoch == settings.epochs):
                self.evaluate_epoch(epoch, output)
            if settings.save_interval > 0 and epoch % settings.save_interval == 0:
                self.save(output / f"epoch_{epoch}")
            self.save(output / "latest")

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
                lr = self.optimizer.get_lr()
                update = (iteration + 1) % self.update_freq == 0
                logits, losses = self.forward(images, labels, update)
                if not math.isfinite(losses["loss"]):
                    raise UserError(self._not_finite(epoch, iteration, float(losses["loss"]), images))
                self.backward(losses["loss"], update)
                count = images.shape[0]
                hits = self.metric(logits, labels) if self.metric is not None else {}
                averages.add({**hits, **{name: float(value) * count for name, value in losses.items()}}, count)
                watch.batch_done(count)
                if iteration % settings.print_batch_step == 0:
                    left = (settings.epochs - epoch + 1) * self.batches - iteration - 1
                    logger.info(
                        "[Train][Epoch %d/%d][Iter: %d/%d]lr: %.8f, %s, %s",
                        *(epoch, settings.epochs, iteration, self.batches),
                        *(lr, averages, watch.line(left, processes()) + self._memory()),
                    )
                    if self.curves is not None:
                        self.curves.add({"lr": lr, **averages.means()}, self.state.step, "train_")
                    watch.reset()
                if iteration + 1 == self.batches:
                    break
        logger.info("[Train][Epoch %d/%d][Avg]%s", epoch, settings.epochs, averages.over_processes())

    def forward(
        self, images: paddle.Tensor, labels: paddle.Tensor, update: bool
    ) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """Logits (N, K), and the losses with their sum as ``loss``; without ``update`` gradients stay local."""
        waits = processes() > 1 and not update
        with self.network.no_sync() if waits else nullcontext(), self.precision.training():
            logits = self.network(images)
        logits = logits.astype("float32")
        return logits, self.criterion(logits, labels)

    def backward(self, loss: paddle.Tensor, update: bool) -> None:
        """Add the gradients of one batch; with ``update``, one step of optimizer, schedule and average."""
        waits = processes() > 1 and not update
        with self.network.no_sync() if waits else nullcontext():
            self.precision.backward(loss / self.update_freq)
        if update:
            self.precision.step(self.optimizer)
            self.optimizer.clear_grad()
            self.schedule.step()
            if self.ema:
                self.ema.update(self.model)
            self.state.step += 1

    def evaluate_epoch(self, epoch: int, output: Path) -> None:
        """Evaluate, and save the best model so far. With EMA, the averaged network decides."""
        results = self._evaluate(self.model, f"[Epoch {epoch}]")
        if self.ema:
            results = self._evaluate(self.ema.model, f"[Epoch {epoch}, ema]")
        metric = results[f"top{self.eval_metric.topk[0]}"]
        if metric >= self.state.best_metric:
            self.state.best_metric, self.state.best_epoch = metric, epoch
            self.save(output / "best_model")
        logger.info(
            "[Eval][Epoch %d][best metric: %.5f, epoch %d]", epoch, self.state.best_metric, self.state.best_epoch
        )

    def _evaluate(self, model: nn.Layer, label: str) -> dict[str, float]:
        every = self.config.Global.print_batch_step
        precision = self.precision.evaluation if model is self.model else nullcontext
        results = evaluate(model, self.eval_loader, self.eval_metric, self.eval_criterion, every, label, precision)
        if self.curves is not None:
            self.curves.add(results, self.state.step, "eval_" if model is self.model else "eval_ema_")
        return results

    def _memory(self) -> str:
        if not self.config.Global.print_mem_info or self.config.Global.device != "gpu":
            return ""
        device = paddle.device.cuda
        reserved, allocated = device.max_memory_reserved() / 2**20, device.max_memory_allocated() / 2**20
        return f", max_mem_reserved: {reserved:.2f} MB, max_mem_allocated: {allocated:.2f} MB"

    def save(self, prefix: Path) -> None:
        if rank() > 0:
            return
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
    trainable = [(name, value) for name, value in model.named_parameters() if not value.stop_gradient]
    bad = [name for name, value in trainable if not bool(paddle.isfinite(value).all())]
    if bad:
        return f"{len(bad)} parameters are not finite, {bad[0]} first"
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
