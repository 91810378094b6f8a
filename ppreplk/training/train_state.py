"""Where a training is: everything about it beside weights and optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional


@dataclass
class TrainState:
    """Everything about a training beside weights and optimizer.

    Random draws and the order of the data are functions of seed, epoch and iteration, so no generator state
    belongs here.

    Args:
        seed: of data order and random draws.
        optimizer: ``Optimizer.name``.
        epoch: the last finished one, counted from 1. An epoch is finished when it has been evaluated, if it is to be.
        iteration: batches trained on in the epoch after it. All batches of an epoch: its evaluation comes next.
        averages: sums and counts over these batches, see :meth:`ppreplk.training.meters.Averages.sums`.
        step: updates of the weights so far.
        best_metric, best_epoch: of the best model so far.
        without_improvement: evaluations since ``best_metric`` last rose, for ``Global.patience``.
        loss_scale: see :meth:`ppreplk.training.precision.Precision.loss_scale`.
        classes: names in the order of their numbers, where the training images have names for them.
        bad_images: paths of the training images that could not be used and were skipped.
        run: number of the run in its folder. A run that begins anew, or goes back to an older checkpoint, where others
            lie takes the next one, so that its checkpoints are newer than theirs.
    """

    seed: int
    optimizer: str
    epoch: int = 0
    iteration: int = 0
    averages: dict[str, list[float]] = field(default_factory=dict)
    step: int = 0
    best_metric: float = -1.0
    best_epoch: int = 0
    without_improvement: int = 0
    loss_scale: dict[str, float] = field(default_factory=dict)
    classes: Optional[list[str]] = None
    bad_images: list[str] = field(default_factory=list)
    run: int = 0

    @property
    def position(self) -> tuple[int, int, int]:
        """What is compared to find the newest checkpoint; clocks play no part."""
        return self.run, self.epoch, self.iteration

    def __str__(self) -> str:
        """Where that is, in words."""
        if self.iteration == 0:
            return f"the end of epoch {self.epoch}"
        return f"{self.iteration} batches of epoch {self.epoch + 1}"
