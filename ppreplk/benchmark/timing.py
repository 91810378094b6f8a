"""Timing contestants in turns, so that a machine whose speed drifts is equally unfair to all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class Times(NamedTuple):
    """Seconds per call."""

    minimum: float
    median: float


def take_turns(contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, Times]:
    """Call every contestant once per round.

    Args:
        contestants: {name: function}.
        rounds: that count.
        warmup: rounds before them that do not.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(warmup + rounds):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: Times(min(values), float(np.median(values))) for name, values in seconds.items()}
