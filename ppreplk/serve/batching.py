"""Images of several requests, computed together: one thread runs the program on batches."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np

logger = logging.getLogger(__name__)


@dataclass
class _Item:
    image: np.ndarray
    topk: int
    done: Future = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)


class QueueFull(Exception):
    """No more images can wait."""


class Batcher:
    """Puts images that come within a few milliseconds into one batch.

    A batch has images of one shape. While the program runs, further images gather. An image waits for others only
    while some are announced, and no longer than ``max_wait``; alone, it is computed at once.

    Args:
        run: a list of images of one shape, and the largest topk of them, to as many results. Called from one thread.
        max_batch: images in a batch.
        max_wait: seconds.
        limit: images that wait.
        watch: called after each batch with its size, the seconds it took, and the seconds its images waited.
    """

    def __init__(
        self,
        run: Callable[[list[np.ndarray], int], Sequence[Any]],
        max_batch: int,
        max_wait: float,
        limit: int,
        watch: Optional[Callable[[int, float, list[float]], None]] = None,
    ):
        self._run = run
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._limit = limit
        self._watch = watch
        self._changed = threading.Condition()
        self._waiting: deque[_Item] = deque()
        self._announced = 0
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="ppreplk-batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @contextmanager
    def announce(self, count: int) -> Iterator[None]:
        """Images are being decoded in this block, and :meth:`submit` will follow.

        Raises:
            QueueFull: so many more would be too many.
        """
        with self._changed:
            if len(self._waiting) + self._announced + count > self._limit:
                raise QueueFull(f"{len(self._waiting) + self._announced} images are waiting")
            self._announced += count
        try:
            yield
        finally:
            with self._changed:
                self._announced -= count
                self._changed.notify()

    def submit(self, images: Sequence[np.ndarray], topk: int) -> list[Future]:
        """Queue images that were announced, in the block that announced them. Returns a future for each."""
        items = [_Item(image, topk) for image in images]
        with self._changed:
            if self._closing:
                raise RuntimeError("the batcher is closed")
            self._waiting.extend(items)
        return [item.done for item in items]

    def close(self) -> None:
        """Compute what is queued, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            started = time.perf_counter()
            live = [item for item in batch if item.done.set_running_or_notify_cancel()]
            if not live:
                continue
            try:
                results = self._run([item.image for item in live], max(item.topk for item in live))
            except BaseException as error:  # whoever waits for the result is told
                for item in live:
                    item.done.set_exception(error)
            else:
                for item, result in zip(live, results):
                    item.done.set_result(result)
            if self._watch is not None:
                seconds = time.perf_counter() - started
                self._watch(len(live), seconds, [started - item.since for item in live])

    def _next_batch(self) -> list[_Item]:
        """The next images of one shape, oldest first; none when the batcher is closed."""
        with self._changed:
            while not self._waiting:
                if self._closing:
                    return []
                self._changed.wait()
            until = self._waiting[0].since + self._max_wait
            while self._announced and len(self._waiting) < self._max_batch and not self._closing:
                left = until - time.perf_counter()
                if left <= 0 or not self._changed.wait(left):
                    break
            shape = self._waiting[0].image.shape
            batch: list[_Item] = []
            others: list[_Item] = []
            while self._waiting and len(batch) < self._max_batch:
                item = self._waiting.popleft()
                (batch if item.image.shape == shape else others).append(item)
            self._waiting.extendleft(reversed(others))
            return batch
