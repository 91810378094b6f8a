"""Meters of a training or an evaluation: averages of losses and metrics, and the time that batches take."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import paddle

from ..utils.distributed import sum_over_processes


class Averages:
    """Means of named values, weighted by the number of samples.

    >>> averages = Averages()
    >>> averages.add({"loss": 3.0}, 2)
    >>> averages.add({"loss": 1.0}, 2)
    >>> str(averages)
    'loss: 1.00000'

    Args:
        saved: to go on from, the result of :meth:`sums`.
    """

    def __init__(self, saved: Mapping[str, Sequence[float]] | None = None) -> None:
        self._sums: dict[str, float] = {name: total for name, (total, _) in (saved or {}).items()}
        self._counts: dict[str, float] = {name: count for name, (_, count) in (saved or {}).items()}

    def sums(self) -> dict[str, list[float]]:
        """{name: [sum, count]}, from which other averages can go on to the same bit."""
        return {name: [total, self._counts[name]] for name, total in self._sums.items()}

    def add(self, sums: dict[str, float], count: int) -> None:
        """Add values that are sums over ``count`` samples."""
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + count

    def over_processes(self) -> Averages:
        """The averages over the samples of all processes."""
        joined = Averages()
        names = list(self._sums)
        sums = sum_over_processes([*self._sums.values(), *self._counts.values()])
        joined._sums = dict(zip(names, sums))
        joined._counts = dict(zip(names, sums[len(names) :]))
        return joined

    def means(self) -> dict[str, float]:
        """{name: mean}, without names of which no sample came."""
        return {name: total / self._counts[name] for name, total in self._sums.items() if self._counts[name]}

    def __str__(self) -> str:
        return ", ".join(f"{name}: {value:.5f}" for name, value in self.means().items())


class BatchValues(NamedTuple):
    """What one batch gave: its place, its number of images, and {name: value}."""

    epoch: int
    iteration: int
    images: int
    values: dict[str, float]

    def sums(self, counted: Sequence[str]) -> dict[str, float]:
        """{name: sum over the images}. The values are means, but for those ``counted``, which are sums already."""
        return {name: value if name in counted else value * self.images for name, value in self.values.items()}


class PendingValues:
    """Values of batches that stay on the device until they are read. A GPU then need not be waited for at each step.

    >>> pending = PendingValues()
    >>> pending.add(1, 0, 8, ["loss"], paddle.to_tensor([2.5]))
    >>> pending.read()
    [BatchValues(epoch=1, iteration=0, images=8, values={'loss': 2.5})]
    >>> pending.read()
    []
    """

    def __init__(self) -> None:
        self._batches: list[tuple[int, int, int, list[str], paddle.Tensor]] = []

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def add(self, epoch: int, iteration: int, images: int, names: list[str], values: paddle.Tensor) -> None:
        """Keep the values (V,) of one batch of that many images."""
        self._batches.append((epoch, iteration, images, names, values))

    def read(self) -> list[BatchValues]:
        """The values of the batches since the last call, in their order. This waits for the device, once."""
        return self.read_with(paddle.to_tensor(True))[0] if self._batches else []

    def read_with(self, flag: paddle.Tensor) -> tuple[list[BatchValues], bool]:
        """The same, and a flag (0-d bool) that the device has computed."""
        parts = [values.astype("float32") for *_, values in self._batches]
        *numbers, is_set = paddle.concat([*parts, flag.astype("float32").reshape([1])]).numpy().tolist()
        read, rest = [], iter(numbers)
        for epoch, iteration, images, names, _ in self._batches:
            read.append(BatchValues(epoch, iteration, images, {name: next(rest) for name in names}))
        self._batches = []
        return read, bool(is_set)


class Stopwatch:
    """PaddleClas's ``batch_cost``, ``reader_cost`` and ``ips`` since the last :meth:`reset`."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.reset()

    def reset(self) -> None:
        self._batches = 0
        self._samples = 0
        self._reading = 0.0
        self._total = 0.0

    def batch_read(self) -> None:
        """Call when a batch has been read, before it is computed."""
        self._reading += time.perf_counter() - self._last

    def batch_done(self, samples: int) -> None:
        """Call when a batch has been computed, with its number of samples."""
        now = time.perf_counter()
        self._total += now - self._last
        self._last = now
        self._batches += 1
        self._samples += samples

    def line(self, batches_left: int | None = None, processes: int = 1) -> str:
        """The costs in seconds per batch, the samples per second of all processes, and the time left."""
        batches = max(self._batches, 1)
        text = (
            f"batch_cost: {self._total / batches:.5f}s, reader_cost: {self._reading / batches:.5f}s, "
            f"ips: {processes * self._samples / max(self._total, 1e-9):.5f} samples/s"
        )
        if batches_left is not None:
            text += f", eta: {datetime.timedelta(seconds=int(batches_left * self._total / batches))}"
        return text
