"""Between two log lines a training step reads nothing back from the device."""

from collections import Counter

import pytest
from host_reads import host_reads
from runs import config

from ppreplk.training import Trainer

SECTIONS = {
    "plain": {},
    "averaged, accumulated, clipped": {
        "EMA": {"decay": 0.9},
        "overrides": ("Global.update_freq=3", "Optimizer.clip_global_norm=1.0"),
    },
}


@pytest.mark.parametrize("case", SECTIONS)
@pytest.mark.parametrize("every, lines", [(100, 1), (3, 3), (1, 9)])
def test_a_training_reads_back_once_a_log_line(project, case, every, lines):
    """Nine batches. When each loss and each hit was read at once, they took 36 reads.

    One more read at the end of the epoch, unless the last batch has a line.
    """
    sections = dict(SECTIONS[case])
    overrides = ("DataLoader.Train.sampler.batch_size=2", f"Global.print_batch_step={every}")
    trainer = Trainer(config(*overrides, *sections.pop("overrides", ()), **sections))
    trainer.train_epoch(1)  # the first batch may look around
    trainer.state.iteration, trainer.state.averages = 0, {}
    with host_reads() as counts:
        trainer.train_epoch(2)
    assert counts == Counter({("numpy", "meters.py"): lines + (every > 1)})


def test_a_step_between_log_lines_reads_nothing(project):
    trainer = Trainer(config(EMA={"decay": 0.9}))
    trainer.model.train()
    batches = list(trainer.loader)
    trainer.stepper.train_batch(1, 0, *batches[0])
    with host_reads() as counts:
        for iteration, batch in enumerate(batches):
            trainer.stepper.train_batch(1, iteration, *batch)
    assert not counts
