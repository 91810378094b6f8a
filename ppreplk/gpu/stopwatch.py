"""Milliseconds of work on the GPU, within a budget of time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

TARGET_MS = 30.0  # of timed calls of one measurement
MOST_CALLS, FEWEST_CALLS = 30, 3
LARGE_CACHE = 2**26
SLOW_MS = 400.0  # a call that takes longer is timed once
MARGIN = 2.0  # a GPU is kept busy for so many times as long as the processor takes to put a call on the stream
MOST_MS = 20.0  # and no longer: such a call is not short


class Budget:
    """Seconds that may be spent.

    >>> Budget(0).is_spent
    True
    """

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds
        self._seconds = seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    @property
    def is_spent(self) -> bool:
        return self.left <= 0

    def part(self, share: float) -> Budget:
        """A budget of its own: a share of the whole, and no more than is left."""
        return Budget(min(share * self._seconds, self.left))


def calls_for(milliseconds: float) -> int:
    """How often a call of this length is timed.

    >>> calls_for(0.01), calls_for(3.0), calls_for(100.0), calls_for(2000.0)
    (30, 10, 3, 1)
    """
    if milliseconds > SLOW_MS:
        return 1
    return max(FEWEST_CALLS, min(MOST_CALLS, int(TARGET_MS / max(milliseconds, 1e-3))))


class Stopwatch:
    """Times calls by events of the GPU's stream. Before each, other memory is written, so that no cache is warm.

    It is written as often as it takes for the whole call to be on the stream by then. Otherwise the GPU would wait for
    the processor between the events, and the time of a short call would be that of Python.

    Args:
        device: of PyTorch. On another device than a GPU, tests, the clock of the processor is read.
    """

    def __init__(self, device: str):
        import torch

        self._torch = torch
        self._on_gpu = device.startswith("cuda")
        card = torch.cuda.get_device_properties(device) if self._on_gpu else None
        cache = getattr(card, "L2_cache_size", LARGE_CACHE) if self._on_gpu else 1  # older PyTorch does not say
        self._other = torch.empty(4 * cache, dtype=torch.uint8, device=device)
        self._writes = 1  # of other memory, before a call
        self._put_ms = 0.0  # what it took to put the last call on the stream
        if self._on_gpu:
            self._time(self._other.zero_)
            self._write_ms = max(1e-3, min(self._time(self._other.zero_) for _ in range(3)))

    def milliseconds(self, call: Callable[[], Any]) -> float:
        """Median time of a call on the GPU. The first two are not counted: they load code and choose algorithms."""
        call()
        self._writes = 1
        calls = calls_for(self._time(call))
        if self._on_gpu:
            busy_ms = min(MARGIN * self._put_ms, MOST_MS)
            self._writes = max(1, math.ceil(busy_ms / self._write_ms))
        return statistics.median(self._time(call) for _ in range(calls))

    def _time(self, call: Callable[[], Any]) -> float:
        if not self._on_gpu:
            start = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - start)
        begin, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(self._writes):
            self._other.zero_()
        begin.record()
        start = time.perf_counter()
        call()
        self._put_ms = 1e3 * (time.perf_counter() - start)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))
