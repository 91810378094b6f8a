"""Learning-rate schedules, under PaddleClas's names and defaults.

A schedule is a function from the optimizer step, counted from 0, to the learning rate of that step. In the
signatures ``per_epoch`` is the number of optimizer steps in an epoch.

Type hints of the builders are evaluated at run time (they check the configuration), so they keep to what
Python 3.9 can evaluate.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Callable, Literal

from paddle.optimizer.lr import LambdaDecay

from ..config import Op, OptimizerConfig, construct, find_op
from ..utils.errors import UserError

Schedule = Callable[[int], float]


def _with_warmup(after: Schedule, peak: float, start: float, steps: int) -> Schedule:
    if peak < 0 or start < 0:
        raise UserError(
            f"learning rates must not be negative, got learning_rate {peak} and warmup_start_lr {start}",
            code="training.bad-value",
        )

    def schedule(step: int) -> float:
        return start + (peak - start) * step / steps if step < steps else after(step - steps)

    return schedule


def Cosine(
    learning_rate: float,
    epochs: int,
    per_epoch: int,
    warmup_epoch: float = 0,
    warmup_start_lr: float = 0.0,
    eta_min: float = 0.0,
    by_epoch: Literal[False] = False,
) -> Schedule:
    """Linear warm-up, then half a cosine from ``learning_rate`` to ``eta_min`` at the end of training.

    >>> rate = Cosine(0.4, epochs=5, per_epoch=10, warmup_epoch=1)
    >>> [round(rate(step), 6) for step in (0, 5, 10, 30, 50)]
    [0.0, 0.2, 0.4, 0.2, 0.0]
    """
    warmup, decay = _warmup_and_decay_steps(epochs, per_epoch, warmup_epoch)

    def cosine(step: int) -> float:
        return eta_min + (learning_rate - eta_min) * (1 + math.cos(math.pi * min(step / decay, 1.0))) / 2

    return _with_warmup(cosine, learning_rate, warmup_start_lr, warmup)


def Linear(
    learning_rate: float,
    epochs: int,
    per_epoch: int,
    warmup_epoch: float = 0,
    warmup_start_lr: float = 0.0,
    end_lr: float = 0.0,
    power: float = 1.0,
    by_epoch: Literal[False] = False,
) -> Schedule:
    """Linear warm-up, then a polynomial of degree ``power`` from ``learning_rate`` to ``end_lr``.

    >>> rate = Linear(0.4, epochs=5, per_epoch=10, warmup_epoch=1)
    >>> [round(rate(step), 6) for step in (0, 5, 10, 30, 50)]
    [0.0, 0.2, 0.4, 0.2, 0.0]
    """
    if power <= 0:
        raise UserError(f"power must be positive, got {power}", code="training.bad-value")
    warmup, decay = _warmup_and_decay_steps(epochs, per_epoch, warmup_epoch)

    def polynomial(step: int) -> float:
        return end_lr + (learning_rate - end_lr) * (1 - min(step / decay, 1.0)) ** power

    return _with_warmup(polynomial, learning_rate, warmup_start_lr, warmup)


def ConstLR(
    learning_rate: float,
    epochs: int,
    per_epoch: int,
    warmup_epoch: float = 0,
    warmup_start_lr: float = 0.0,
    by_epoch: Literal[False] = False,
) -> Schedule:
    """Linear warm-up, then ``learning_rate`` to the end.

    >>> rate = ConstLR(0.4, epochs=5, per_epoch=10, warmup_epoch=1)
    >>> [rate(step) for step in (0, 5, 10, 50)]
    [0.0, 0.2, 0.4, 0.4]
    """
    warmup, _ = _warmup_and_decay_steps(epochs, per_epoch, warmup_epoch)
    return _with_warmup(lambda step: learning_rate, learning_rate, warmup_start_lr, warmup)


def MultiStepDecay(
    learning_rate: float,
    epochs: int,
    per_epoch: int,
    milestones: Sequence[int],
    gamma: float = 0.1,
    warmup_epoch: float = 0,
    warmup_start_lr: float = 0.0,
    by_epoch: Literal[False] = False,
) -> Schedule:
    """Linear warm-up, then ``learning_rate`` times ``gamma`` for each milestone passed.

    Milestones are epochs after the warm-up, as in PaddleClas.

    >>> rate = MultiStepDecay(0.4, epochs=5, per_epoch=10, milestones=[2, 4])
    >>> [round(rate(step), 6) for step in (0, 20, 40)]
    [0.4, 0.04, 0.004]
    """
    if list(milestones) != sorted(set(milestones)):
        raise UserError(f"milestones must rise, got {list(milestones)}", code="training.bad-value")
    warmup, _ = _warmup_and_decay_steps(epochs, per_epoch, warmup_epoch)
    edges = [milestone * per_epoch for milestone in milestones]

    def steps(step: int) -> float:
        return learning_rate * gamma ** bisect_right(edges, step)

    return _with_warmup(steps, learning_rate, warmup_start_lr, warmup)


def _warmup_and_decay_steps(epochs: int, per_epoch: int, warmup_epoch: float) -> tuple[int, int]:
    if not 0 <= warmup_epoch <= epochs:
        raise UserError(
            f"warmup_epoch must lie between 0 and Global.epochs ({epochs}), got {warmup_epoch}",
            code="training.bad-value",
        )
    warmup = round(warmup_epoch * per_epoch)
    return warmup, max(epochs * per_epoch - warmup, 1)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "Cosine": Cosine,
    "Linear": Linear,
    "MultiStepDecay": MultiStepDecay,
    "ConstLR": ConstLR,
}
UNSERVED_SCHEDULES = dict.fromkeys(
    ("Cyclic", "Step", "Piecewise", "ReduceOnPlateau", "CosineFixmatch", "OneCycleLR"),
    "use Cosine, Linear, MultiStepDecay or ConstLR",
)


def build_schedule(config: OptimizerConfig, epochs: int, per_epoch: int) -> LambdaDecay:
    """Build the schedule of ``Optimizer.lr``; it is to be stepped once per optimizer step.

    Args:
        config: the ``Optimizer`` section.
        epochs: epochs of the whole training.
        per_epoch: optimizer steps in an epoch.

    Raises:
        UserError: an unknown schedule, or arguments that do not fit.
    """
    op = Op(config.lr.name, config.lr.arguments, config.lr.where)
    factory = find_op(op, SCHEDULES, UNSERVED_SCHEDULES, "schedule")
    return LambdaDecay(1.0, construct(factory, op.arguments, op.where, epochs=epochs, per_epoch=per_epoch))
