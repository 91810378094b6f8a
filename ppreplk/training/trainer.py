"""The training loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import paddle
from paddle import nn

from ..checkpoints.kept_weights import AVERAGED, RAW
from ..checkpoints.pretrained import load_pretrained, use_named_weights
from ..config import Config
from ..data import Loader, build_dataset, build_loader, prepare_dataset
from ..data.bad_images import BadImages
from ..data.classes import check_same_classes
from ..data.survey_start import first_look
from ..models.arch import build_network
from ..models.training_form import training_form
from ..nn.merge import form_of
from ..utils.device import keep_freed_memory, set_up_device
from ..utils.distributed import rank, share_statistics
from ..utils.errors import UserError
from ..utils.log import progress
from ..utils.seeds import choose_seed
from . import checkpoint
from .checkpoint_search import BEST, LATEST
from .divergence import DivergenceWatch
from .ema import ExponentialMovingAverage
from .evaluate import evaluate
from .losses import build_loss
from .map_sizes import MapSizes
from .meters import Averages, Stopwatch
from .metrics import build_metric
from .notices import log_start
from .optimizers import build_optimizer
from .precision import Precision
from .process_watch import ProcessWatch, watched_processes
from .recorder import Recorder
from .saving import Saver, check_same_start
from .schedules import build_schedule
from .signals import Stop, StopRequests
from .stepping import Stepper
from .train_state import TrainState

logger = logging.getLogger(__name__)


def train(config: Config) -> TrainState:
    """Do what ``tools/train.py`` does.

    Raises:
        UserError: missing data, a configuration that does not fit, or a training that diverges.
    """
    with watched_processes(config.Global.device) as watch:
        return Trainer(config, watch).fit()


class Trainer:
    """One training. Everything is built and checked before anything is written to ``output_dir``.

    A *step* is one update of the weights. It takes the gradients of ``update_freq`` batches. An epoch is a whole
    number of steps.

    Args:
        config: the configuration.
        process_watch: is told of progress, where several processes train.

    Raises:
        UserError: missing data, or a configuration that does not fit.
    """

    def __init__(self, config: Config, process_watch: ProcessWatch | None = None):
        self.config = config
        self.process_watch = process_watch or ProcessWatch()
        settings = config.Global
        optimizer = config.require("Optimizer")
        self.saver = Saver(config)
        self.resumed = self.saver.find_start(optimizer.name)
        self.state = self.resumed.state if self.resumed else TrainState(choose_seed(settings.seed), optimizer.name)
        self.stop = StopRequests()

        self.bad_images = BadImages(settings.max_bad_images, self.state.bad_images)
        self.device, self.loader, self.eval_loader = self._open_data()
        check_same_start(self.state, self.resumed)
        self.update_freq = settings.update_freq
        self.steps = self._steps_of_an_epoch()
        self.batches = self.steps * self.update_freq

        loss = config.require("Loss")
        class_num = config.Arch.class_num
        self.criterion = build_loss(loss.Train, class_num, self.loader.dataset.class_counts(class_num))
        self.eval_criterion = build_loss(loss.Eval, class_num) if loss.Eval else None
        self.metric = build_metric(config.Metric.Train)
        self.eval_metric = build_metric(config.Metric.Eval)
        self._check_metrics()

        paddle.seed(self.state.seed)
        self.model = build_network(config.Arch)
        self.schedule = build_schedule(optimizer, settings.epochs, self.steps)
        self.optimizer = build_optimizer(optimizer, self.schedule, self.model)
        self.precision = Precision(config.AMP, settings.device)
        if self.resumed is None:
            use_named_weights(config)
            if settings.pretrained_model is not None:
                load_pretrained(self.model, config, training=True)
        self.ema = ExponentialMovingAverage(self.model, config.EMA.decay) if config.EMA else None
        if self.resumed is not None:
            checkpoint.restore(self.resumed, self.model, self.optimizer, self.ema)
            self.precision.restore_loss_scale(self.state.loss_scale)
            self.schedule.step(self.state.step)  # the configuration's rate; the optimizer's file has that of its own
        self.precision.decorate(self.model, self.optimizer)
        form = training_form(self.model, settings.train_layout, settings.train_products)
        MapSizes(self.model, form, self.loader)
        self.watch = DivergenceWatch(self.model, self.loader, self.precision, self.state.seed, self.update_freq)
        self.stepper = Stepper(
            *(self.model, form, self.optimizer, self.schedule, self.criterion, self.metric),
            *(self.precision, self.ema, self.watch, self.update_freq, self.state.seed),
        )
        self.recorder = Recorder(settings, self.batches, self.resumed)

    # ----------------------------------------------------------------------------------------------------
    # The loop

    def fit(self) -> TrainState:
        """Train to the last epoch, evaluating and saving on the way.

        Raises:
            UserError: a loss that is not finite, an unreadable image, a full disk.
        """
        settings = self.config.Global
        output = Path(settings.output_dir)
        with self.recorder.recording(), self.stop, self.saver.saying_where_to_go_on():
            if rank() == 0:
                logger.info("%s, seed %d", self.device, self.state.seed)
                log_start(self.config, self.resumed, form_of(self.model.state_dict()))
                for loader in filter(None, (self.loader, self.eval_loader)):
                    first_look(loader.dataset, self.config.Arch.class_num, training=loader is self.loader)
            self.saver.begin(self.state, self.resumed)
            if self.resumed and self.state.iteration == 0:
                self._save_epoch(self.saver.missing(self.state))
            for epoch in range(self.state.epoch + 1, settings.epochs + 1):
                if self._out_of_patience():
                    break
                self.train_epoch(epoch)
                if self._evaluation_is_due(epoch):
                    self.evaluate_epoch(epoch, output)
                self._finish(epoch)
                self._save_epoch(self.saver.names(epoch))
                if number := self.stop.requested():
                    raise self.stop.stopped(number)
        return self.state

    def train_epoch(self, epoch: int) -> None:
        """Make one pass over the training images, or the rest of one that was interrupted.

        Raises:
            UserError: a loss that is not finite, an unreadable image.
            Stop: a signal has come. What was done is saved.
        """
        settings, start = self.config.Global, self.state.iteration
        self.model.train()
        self.loader.set_epoch(epoch, start)
        averages, watch = self._averages_so_far(), Stopwatch()
        left = self.batches - start
        with progress(islice(self.loader, left), left, f"epoch {epoch}/{settings.epochs}") as batches:
            for iteration, (images, labels) in enumerate(batches, start):
                watch.batch_read()
                self.process_watch.batch_read()
                lr = self.optimizer.get_lr()
                self.stepper.train_batch(epoch, iteration, images, labels)
                self.state.step += self.stepper.completes_step(iteration)
                is_logged = iteration % settings.print_batch_step == 0
                if is_logged:
                    self.stepper.settle(averages)  # waits for the device, so it belongs to the batch's time
                watch.batch_done(images.shape[0])
                if is_logged:
                    numbers = {"lr": lr, **self.precision.numbers()}
                    self.recorder.iteration(epoch, iteration, self.state.step, numbers, averages, watch)
                    watch.reset()
                if self.stepper.completes_step(iteration):
                    self._save_inside(iteration + 1, averages)
        self._note(self.batches, averages)
        for network in (self.model, self.ema.model) if self.ema else (self.model,):
            share_statistics(network)
        self.recorder.epoch(epoch, self.state.step, averages)

    def _averages_so_far(self) -> Averages:
        """Those of an epoch that goes on. They are of all processes, so one of them has them, and the others zeros."""
        saved = self.state.averages
        return Averages(saved if rank() == 0 else {name: [0.0, 0.0] for name in saved})

    def _note(self, iteration: int, averages: Averages) -> None:
        """Put down where the training is in its epoch. All processes do so at the same moment."""
        self.stepper.settle(averages)
        self.bad_images.share(self.loader.dataset)
        self.state.iteration, self.state.averages = iteration, averages.over_processes().sums()

    def _finish(self, epoch: int) -> None:
        self.state.epoch, self.state.iteration, self.state.averages = epoch, 0, {}

    # ----------------------------------------------------------------------------------------------------
    # Evaluating and saving

    def _evaluation_is_due(self, epoch: int) -> bool:
        settings = self.config.Global
        due = epoch % settings.eval_interval == 0 and epoch >= settings.start_eval_epoch
        return self.eval_loader is not None and (due or epoch == settings.epochs)

    def _out_of_patience(self) -> bool:
        """Whether the metric that decides has not risen for ``Global.patience`` evaluations; a log line says so."""
        patience, state = self.config.Global.patience, self.state
        if patience is None or state.without_improvement < patience:
            return False
        logger.info(
            "stopped after epoch %d: the best metric, %.5f, has not risen for %d evaluations (Global.patience)",
            *(state.epoch, state.best_metric, state.without_improvement),
        )
        return True

    def evaluate_epoch(self, epoch: int, output: Path) -> None:
        """Evaluate, and save the best model so far. With EMA, raw and averaged weights are, and the latter decide."""
        try:
            with self.stop.at_once():
                results = self._evaluate(self.model, epoch, RAW if self.ema else "")
                if self.ema:
                    results = self._evaluate(self.ema.model, epoch, AVERAGED)
        except Stop:
            self.save(output / LATEST)  # the epoch goes on with its evaluation
            raise
        self._finish(epoch)
        assert self.eval_metric is not None  # checked by the constructor
        metric = results[f"top{self.eval_metric.topk[0]}"]
        self.state.without_improvement = 0 if metric > self.state.best_metric else self.state.without_improvement + 1
        better = metric >= self.state.best_metric
        if better:
            self.state.best_metric, self.state.best_epoch = metric, epoch
        logger.info(
            "[Eval][Epoch %d][best metric: %.5f, epoch %d%s]",
            *(epoch, self.state.best_metric, self.state.best_epoch, f", {AVERAGED} weights" if self.ema else ""),
        )
        if better:
            self.save(output / BEST)

    def _evaluate(self, model: nn.Layer, epoch: int, weights: str) -> dict[str, float]:
        assert self.eval_loader is not None
        every = self.config.Global.print_batch_step
        precision = self.precision.evaluation if model is self.model else nullcontext
        label = f"[Epoch {epoch}, {weights}]" if weights else f"[Epoch {epoch}]"
        results = evaluate(model, self.eval_loader, self.eval_metric, self.eval_criterion, every, label, precision)
        self.recorder.evaluation(results, epoch, self.state.step, weights)
        return results

    def save(self, prefix: Path) -> None:
        """Write the checkpoint ``prefix``; process 0 alone does."""
        if rank() > 0:
            return
        self.watch.check_weights(*([self.model, self.ema.model] if self.ema else [self.model]))
        self.state.loss_scale = self.precision.loss_scale()
        self.saver.save(prefix, self.model, self.optimizer, self.state, self.ema)

    def _save_epoch(self, names: Sequence[str]) -> None:
        """Write the checkpoints of these names, all of this moment."""
        for name in names:
            self.save(self.saver.folder / name)
        if rank() == 0:
            self.saver.remove_old(self.state.run)

    def _save_inside(self, iteration: int, averages: Averages) -> None:
        """After a step: save if that is due or a signal asks to stop, and then stop."""
        number = self.stop.requested_after(self.state.step, last=iteration == self.batches)
        interval = self.config.Global.save_step_interval
        if number or (interval > 0 and self.state.step % interval == 0):
            self._note(iteration, averages)
            self.save(self.saver.folder / LATEST)
        if number:
            raise self.stop.stopped(number)

    # ----------------------------------------------------------------------------------------------------
    # Parts of the constructor

    def _open_data(self) -> tuple[str, Loader, Loader | None]:
        """What to log about the device, the training images, and the images to evaluate on, if it is asked for."""
        config, settings = self.config, self.config.Global
        class_num, seed = config.Arch.class_num, self.state.seed
        prepare_dataset(config)
        names = ["DataLoader.Train", *(["DataLoader.Eval"] if settings.eval_during_train else [])]
        splits = [config.require(name) for name in names]
        channels = config.Arch.in_channels
        datasets = [build_dataset(split.dataset, class_num, seed, channels) for split in splits]
        classes = datasets[0].classes
        for images in datasets[1:]:
            check_same_classes(images.classes, images.source, classes, datasets[0].source)
        if self.resumed is not None and self.state.classes is not None:
            check_same_classes(
                classes, datasets[0].source, self.state.classes, f"the training of {self.resumed.prefix}"
            )
        self.state.classes = None if classes is None else list(classes)
        device = set_up_device(settings.device, settings.num_threads)
        if settings.device == "cpu":
            keep_freed_memory()
        loader = build_loader(splits[0], datasets[0], class_num, self.bad_images)
        held_out = [build_loader(split, images, class_num) for split, images in zip(splits[1:], datasets[1:])]
        return device, loader, held_out[0] if held_out else None

    def _steps_of_an_epoch(self) -> int:
        """Steps that the batches of an epoch make; a resumed training must count them as before."""
        state, steps = self.state, len(self.loader) // self.update_freq
        if steps == 0:
            raise UserError(
                f"{self.update_freq} batches make one step, but an epoch has {len(self.loader)}",
                code="training.too-few-batches",
                where="Global.update_freq",
            )
        expected, rest = state.epoch * steps + state.iteration // self.update_freq, state.iteration % self.update_freq
        if self.resumed and (state.step != expected or rest or state.iteration > steps * self.update_freq):
            raise UserError(
                f"{self.resumed.prefix} took {state.step} steps to {state}, here it would take {expected}; "
                "resume with the data, batch size and update_freq of its training",
                code="training.wrong-checkpoint",
                where="Global.checkpoints",
            )
        return steps

    def _check_metrics(self) -> None:
        """Evaluation needs a metric; training does without one where images are mixed."""
        if self.metric is not None and self.loader.mixes:
            logger.info("training accuracy is not measured: mixed images have no single class")
            self.metric = None
        if self.eval_loader is not None and self.eval_metric is None:
            raise UserError(
                "needed to choose the best model; give TopkAcc, or set Global.eval_during_train to False",
                code="training.needs-metric",
                where="Metric.Eval",
            )
