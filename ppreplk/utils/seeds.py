"""Random seeds."""

from __future__ import annotations

import numpy as np
import paddle

from .distributed import processes, rank


def choose_seed(seed: int | None) -> int:
    """The given seed, or else a fresh one; with several processes, which must agree, 0 instead of a fresh one."""
    if seed is not None:
        return seed
    return int(np.random.SeedSequence().generate_state(1)[0]) if processes() == 1 else 0


def seed_step(seed: int, epoch: int, iteration: int) -> None:
    """Seed Paddle for one training iteration: what drop path draws depends on these numbers and the rank alone."""
    paddle.seed(int(np.random.SeedSequence([seed, epoch, iteration, rank()]).generate_state(1)[0]))
