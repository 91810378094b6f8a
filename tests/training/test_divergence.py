"""Losses and weights that are not finite: noticed at a log line, named where they began, and never saved."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import refused
from runs import config

from ppreplk.training import Trainer
from ppreplk.training.precision import MAX_SKIPPED_IN_A_ROW, Precision
from ppreplk.weights import load_checkpoint

SMALL_BATCHES = "DataLoader.Train.sampler.batch_size=2"  # 9 in an epoch
SELDOM = "Global.print_batch_step=100"


def spoil_loss(trainer: Trainer, *calls: int) -> None:
    """Make the loss NaN in these calls of the criterion."""
    forward, count = trainer.criterion.forward, iter(range(10**6))

    def spoiled(logits, labels):
        losses = forward(logits, labels)
        return {**losses, "loss": losses["loss"] * (float("nan") if next(count) in calls else 1.0)}

    trainer.criterion.forward = spoiled


def record_batches(trainer: Trainer) -> list:
    batches, load = [], trainer.loader.load
    trainer.loader.load = lambda indices: batches.append([f"data/images/{i}.png" for i in indices]) or load(indices)
    return batches


def weights_of(trainer: Trainer) -> list[np.ndarray]:
    return [parameter.numpy() for parameter in trainer.model.parameters() if not parameter.stop_gradient]


def test_the_first_bad_batch_is_named_long_after(project, caplog):
    """NaN begins in batch 4 of 9 and is noticed at the end of the epoch; the weights are then those of batch 4."""
    trainer = Trainer(config(SMALL_BATCHES, SELDOM))
    spoil_loss(trainer, 4, 5, 6, 7, 8)
    batches = record_batches(trainer)
    order = [sample.path for sample in trainer.loader.dataset.samples]
    with refused("training.not-finite", "the loss is nan in epoch 1, iteration 4 (step 5)"):
        trainer.train_epoch(1)
    names = [order[int(Path(name).stem)] for name in batches[4]]
    assert f"images of epoch 1, iteration 4: {', '.join(names)}" in caplog.text

    same = Trainer(config(SMALL_BATCHES, SELDOM))
    for iteration, batch in zip(range(4), epoch_of(same, 1)):
        same.stepper.train_batch(1, iteration, *batch)
    assert all((first == second).all() for first, second in zip(weights_of(trainer), weights_of(same)))


def epoch_of(trainer: Trainer, epoch: int):
    trainer.model.train()
    trainer.loader.set_epoch(epoch)
    return iter(trainer.loader)


def test_a_step_of_several_batches_is_named_by_its_own_number(project):
    trainer = Trainer(config(SMALL_BATCHES, SELDOM, "Global.update_freq=3"))
    spoil_loss(trainer, 4)
    with refused("training.not-finite", "epoch 1, iteration 4 (step 2)", "all layers' outputs are finite"):
        trainer.fit()


def test_nothing_after_a_bad_step_is_saved(project):
    trainer = Trainer(config(SMALL_BATCHES, SELDOM, "Global.save_step_interval=2", EMA={"decay": 0.9}))
    spoil_loss(trainer, 4)
    with refused("training.not-finite", "iteration 4"):
        trainer.fit()
    for suffix in (".pdparams", ".pdema"):
        assert all(np.isfinite(value).all() for value in load_checkpoint(f"output/latest{suffix}").values())
    assert Trainer(config(SMALL_BATCHES, "Global.checkpoints=output/latest", EMA={"decay": 0.9})).state.step == 4


def test_weights_that_overflow_in_the_last_step_are_not_saved(project):
    trainer = Trainer(config(SELDOM))
    step, steps = trainer.optimizer.step, iter(range(10))

    def overflowing():
        step()
        if next(steps) == 2:
            weight = trainer.model.head.weight
            weight.set_value(weight * float("inf"))

    trainer.optimizer.step = overflowing
    with refused("training.not-finite", "after epoch 1, iteration 0 (step 1), head.weight first"):
        trainer.fit()
    assert not list(Path("output").glob("*.pdparams"))


@pytest.mark.parametrize("bad, part", [(np.inf, "number 2 of the batch"), (1e38, "first layer with a non-finite")])
def test_images_that_are_not_finite_are_told_from_layers(project, bad, part):
    trainer = Trainer(config(SMALL_BATCHES))
    spoil_loss(trainer, 4)
    batches, load = record_batches(trainer), trainer.loader.load

    def spoiled(indices):
        images, *rest = load(indices)
        if len(batches) in (5, 10):  # the same batch when it is asked for again
            images[1, 0] = bad
        return (images, *rest)

    trainer.loader.load = spoiled
    with refused("training.not-finite", part):
        trainer.train_epoch(1)


def test_a_network_that_swallows_nan_is_stopped_at_the_next_log_line(project):
    """The maximum of NaN and 0 is 0 in Paddle's ReLU: statistics are ruined for good, and no loss tells."""
    trainer = Trainer(config(SMALL_BATCHES, "Global.print_batch_step=3", "Global.train_layout=nchw"))
    load, count = trainer.loader.load, iter(range(100))

    def spoiled(indices):
        images, *rest = load(indices)
        if next(count) == 2:
            images[0, 0, 5, 5] = np.inf
        return (images, *rest)

    trainer.loader.load = spoiled
    with refused("training.not-finite", "statistics have become non-finite after epoch 1, iteration 0 (step 1), stem"):
        trainer.train_epoch(1)


# --------------------------------------------------------------------------------------------------------
# The loss scaler: Paddle's own, which believes that it is on a GPU


@pytest.fixture
def scaled(project, monkeypatch):
    place = SimpleNamespace(is_gpu_place=lambda: True)
    monkeypatch.setattr("paddle.amp.grad_scaler._dygraph_tracer", lambda: SimpleNamespace(_expected_place=place))
    monkeypatch.setattr("paddle.amp.grad_scaler.amp_global_state", lambda: SimpleNamespace(amp_dtype="float16"))
    start = Precision.__init__

    def on_a_gpu(self, settings, device):
        start(self, settings, "gpu")
        self.config = None  # nothing is cast

    monkeypatch.setattr(Precision, "__init__", on_a_gpu)
    return project


def amp(scale: float, dynamic: bool = True) -> dict:
    return {"use_dynamic_loss_scaling": dynamic, "scale_loss": scale}


def test_skipped_steps_are_counted_and_training_goes_on(scaled, caplog):
    trainer = Trainer(config("Global.epochs=4", "Global.print_batch_step=1", AMP=amp(3.4e38)))
    skipped, take = [], trainer.stepper._take_step

    def watched(*place):
        before = weights_of(trainer)
        take(*place)
        skipped.append(all((old == new).all() for old, new in zip(before, weights_of(trainer))))

    trainer.stepper._take_step = watched
    trainer.fit()
    assert 2 <= sum(skipped) < len(skipped) and skipped[0] and not skipped[-1]
    assert f"skipped_steps: {sum(skipped)}" in caplog.text
    assert trainer.precision.skipped_steps == sum(skipped)
    resumed = Trainer(config("Global.epochs=4", "Global.checkpoints=output/latest", AMP=amp(3.4e38)))
    assert resumed.precision.skipped_steps == sum(skipped)


def test_a_bad_loss_that_the_scaler_skips_is_left_out_of_the_averages(scaled):
    trainer = Trainer(config("Global.epochs=1", SELDOM, AMP=amp(1024.0)))
    spoil_loss(trainer, 1)
    trainer.fit()
    assert trainer.precision.skipped_steps == 1 and trainer.precision.loss_scale()["scale"] == 512
    assert np.isfinite(load_checkpoint("output/latest")["head.weight"]).all()


def test_averages_of_skipped_steps_alone_have_their_names(scaled):
    """Processes add up theirs, and another one may have seen finite losses."""
    trainer = Trainer(config(AMP=amp(1024.0)))
    spoil_loss(trainer, 0, 1, 2)
    trainer.train_epoch(1)
    assert trainer.state.averages == {name: [0.0, 0] for name in ("top1", "top2", "CELoss", "loss")}


@pytest.mark.parametrize(
    "scale, dynamic, steps, part",
    [
        (8.0, True, 4, "overflow even with a loss scale of 1 in epoch 2, iteration 0 (step 4)"),
        (8.0, False, MAX_SKIPPED_IN_A_ROW, f"overflowed in {MAX_SKIPPED_IN_A_ROW} steps in a row in epoch 9, "),
    ],
)
def test_a_scaler_that_does_not_recover_ends_the_training(scaled, scale, dynamic, steps, part):
    trainer = Trainer(config("Global.epochs=20", "Global.eval_during_train=False", AMP=amp(scale, dynamic)))
    spoil_loss(trainer, *range(100))
    with refused("training.not-finite", part):
        trainer.fit()
    assert trainer.precision.skipped_steps == steps
