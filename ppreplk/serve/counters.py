"""Counters, gauges and histograms in Prometheus' text format. Threads may share them."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Union

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
Labels = tuple[tuple[str, str], ...]


class Counter:
    """A number that only grows, for each combination of labels."""

    kind = "counter"

    def __init__(self, name: str, text: str):
        self.name = name
        self.text = text
        self._values: dict[Labels, float] = {}
        self._lock = threading.Lock()

    def add(self, amount: float = 1, **labels: str) -> None:
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[key] = self._values.get(key, 0) + amount

    def value(self, **labels: str) -> float:
        """The sum over all combinations that have these labels."""
        with self._lock:
            return sum(value for key, value in self._values.items() if set(labels.items()) <= set(key))

    def lines(self) -> list[str]:
        with self._lock:
            return [f"{self.name}{_labels(key)} {value:.15g}" for key, value in sorted(self._values.items())]


class Gauge:
    """A number that is asked for when it is shown."""

    kind = "gauge"

    def __init__(self, name: str, text: str, ask: Callable[[], float]):
        self.name = name
        self.text = text
        self._ask = ask

    def lines(self) -> list[str]:
        return [f"{self.name} {self._ask():.10g}"]


class Histogram:
    """How often a value lay at or below each bound.

    >>> sizes = Histogram("sizes", "Of batches.", [1, 4])
    >>> sizes.observe(3)
    >>> sizes.lines()
    ['sizes_bucket{le="1"} 0', 'sizes_bucket{le="4"} 1', 'sizes_bucket{le="+Inf"} 1', 'sizes_sum 3', 'sizes_count 1']
    """

    kind = "histogram"

    def __init__(self, name: str, text: str, bounds: Sequence[float]):
        self.name = name
        self.text = text
        self._bounds = list(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def sum(self) -> float:
        return self._sum

    def observe(self, value: float) -> None:
        with self._lock:
            self._counts[bisect.bisect_left(self._bounds, value)] += 1
            self._sum += value

    def lines(self) -> list[str]:
        with self._lock:
            counts, total = list(self._counts), self._sum
        found, below = [], 0
        for bound, count in zip([*(f"{bound:g}" for bound in self._bounds), "+Inf"], counts):
            below += count
            found.append(f'{self.name}_bucket{{le="{bound}"}} {below}')
        return [*found, f"{self.name}_sum {total:.10g}", f"{self.name}_count {below}"]


Metric = Union[Counter, Gauge, Histogram]


def exposition(metrics: Sequence[Metric]) -> str:
    """The page that Prometheus reads."""
    lines: list[str] = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {metric.text}", f"# TYPE {metric.name} {metric.kind}", *metric.lines()]
    return "\n".join(lines) + "\n"


def resident_bytes(process: int | str = "self") -> float:
    """Memory of a process, this one unless its number is given; 0 where it cannot be told (elsewhere than on Linux)."""
    try:
        for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0


def _labels(key: Labels) -> str:
    if not key:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in key) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
