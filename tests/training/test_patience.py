"""Global.patience: a training stops when the metric that decides no longer rises."""

import pytest
from runs import config, same_weights

from ppreplk.config import load_config
from ppreplk.training import Trainer, train
from ppreplk.utils.errors import UserError

STILL = ("Global.epochs=9", "Optimizer.lr.learning_rate=0", "Optimizer.lr.warmup_epoch=0")


def scripted(trainer: Trainer, accuracies: list[float]) -> Trainer:
    """Let every evaluation find the next of these accuracies."""
    trainer._evaluate = lambda model, epoch, weights: {"top1": accuracies[epoch - 1]}
    return trainer


@pytest.mark.parametrize(
    "accuracies, last, best",
    [
        ([0.1, 0.2, 0.2, 0.1, 0.9], 4, 3),  # an equal value makes the newer network the best one, but is no rise
        ([0.1, 0.2, 0.1, 0.3, 0.2, 0.3], 6, 6),
        ([0.3, 0.2, 0.4], 3, 3),
    ],
)
def test_it_stops_after_evaluations_without_a_rise(project, caplog, accuracies, last, best):
    state = scripted(Trainer(config("Global.patience=2", f"Global.epochs={len(accuracies)}")), accuracies).fit()
    assert (state.epoch, state.best_epoch) == (last, best)
    assert ("has not risen for 2 evaluations" in caplog.text) == (last < len(accuracies))


def test_the_averaged_network_decides(project):
    trainer = Trainer(config("Global.patience=1", "Global.epochs=4", EMA={"decay": 0.9}))
    raw, averaged = iter([0.1, 0.2, 0.3, 0.4]), iter([0.5, 0.6, 0.6, 0.9])
    trainer._evaluate = lambda model, epoch, weights: {"top1": next(raw if model is trainer.model else averaged)}
    assert trainer.fit().epoch == 3


def test_a_resumed_training_goes_on_counting(project):
    straight = scripted(Trainer(config("Global.patience=3", "Global.epochs=6")), [0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert straight.fit().epoch == 4
    other = ("Global.patience=3", "Global.output_dir=other")
    trainer = scripted(Trainer(config(*other, "Global.epochs=6")), [0.5, 0.4])
    with pytest.raises(IndexError):  # stopped in the third evaluation
        trainer.fit()
    resumed = scripted(
        Trainer(config(*other, "Global.epochs=6", "Global.checkpoints=other/latest")), [0.5, 0.4, 0.3, 0.2]
    )
    assert resumed.fit().epoch == 4
    assert same_weights("output/latest.pdparams", "other/latest.pdparams")

    done = Trainer(config(*other, "Global.epochs=6", "Global.checkpoints=other/latest")).fit()
    assert done.epoch == 4, "there is no patience left"
    longer = ("Global.patience=4", "Global.output_dir=other", "Global.epochs=6", "Global.checkpoints=other/latest")
    assert scripted(Trainer(config(*longer)), [0, 0, 0, 0, 0.1]).fit().epoch == 5


def test_it_needs_evaluations(project):
    with pytest.raises(UserError, match="Global.patience: counts evaluations, but Global.eval_during_train is False"):
        config("Global.patience=3", "Global.eval_during_train=False")
    assert load_config("config.yaml").Global.patience is None


def test_a_real_training_stops(project):
    state = train(config(*STILL, "Global.patience=2"))
    assert state.epoch < 9
