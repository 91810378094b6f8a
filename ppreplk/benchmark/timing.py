"""Timing in turns: when the speed of the machine drifts, it does so for all contestants alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

# Math libraries keep their idle threads spinning for up to 0.2 s, which would slow the next contestant down.
PAUSE = 0.25


class Times(NamedTuple):
    """Seconds per call."""

    minimum: float
    median: float


def take_turns(
    contestants: Mapping[str, Callable[[], object]], rounds: int, calls: int = 1, pause: float = 0.0
) -> dict[str, Times]:
    """Time contestants in rounds. In each round everyone has a turn: a pause, a call to warm up, then timed calls.

    Args:
        contestants: {name: function}.
        rounds: number of rounds.
        calls: timed calls in a turn.
        pause: seconds before a turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            time.sleep(pause)
            call()
            for _ in range(calls):
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    return {name: Times(min(values), float(np.median(values))) for name, values in seconds.items()}
