"""What a network has answered for each image of an evaluation, brought together from all processes."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import paddle

from ..data import Loader
from ..utils.distributed import gather_rows, sum_over_processes


class Throughput(NamedTuple):
    """Images per second of all processes: of the whole evaluation, and of the network alone."""

    with_reading: float
    without_reading: float


class Outputs:
    """Logits and labels of one evaluation. Each batch is copied to the host once.

    The first batch, in which memory is set up and kernels are chosen, does not count for the throughput, unless it is
    the only one.

    Args:
        loader: the images, in an order that does not change and each once.
    """

    def __init__(self, loader: Loader):
        self.loader = loader
        self._logits: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._images = 0  # these four are without the first batch
        self._seconds = 0.0
        self._begin = self._end = self._read = time.perf_counter()

    def batch_read(self) -> None:
        """Call when a batch has been read, before it is computed."""
        self._read = time.perf_counter()

    def keep(self, logits: paddle.Tensor, labels: paddle.Tensor) -> None:
        """Keep (N, K) logits and (N,) labels of the batch that has been read. This waits for the device."""
        self._logits.append(logits.numpy())
        self._labels.append(labels.numpy())
        self._end = time.perf_counter()
        if len(self._logits) == 1 and len(self.loader) > 1:
            self._begin = self._end
            return
        self._images += len(labels)
        self._seconds += self._end - self._read

    def over_processes(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits (N, K) float32 and labels (N,) of the images of all processes, in the order of the data set.

        All processes must call this, and all get everything.
        """
        order = np.asarray([index for batch in self.loader.batch_sampler for index in batch], np.int64)
        parts = (order, np.concatenate(self._logits), np.concatenate(self._labels))
        indices, logits, labels = (gather_rows(part) for part in parts)
        places = np.argsort(indices, kind="stable")
        return logits[places], labels[places]

    def throughput(self) -> Throughput:
        """Of all processes, which must all call this."""
        seconds = (self._end - self._begin, self._seconds)
        return Throughput(*sum_over_processes([self._images / max(each, 1e-9) for each in seconds]))
