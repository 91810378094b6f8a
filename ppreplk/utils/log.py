"""Log lines, meters, the progress bar."""

from __future__ import annotations

import datetime
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .device import rank, sum_over_processes
from .errors import UserError

FORMAT = "[%(asctime)s] %(levelname)s: %(message)s"
DATE_FORMAT = "%Y/%m/%d %H:%M:%S"
PACKAGE_LOGGER = logging.getLogger("ppreplk")


def log_to_terminal() -> None:
    """Send the package's messages to standard error; of several processes, the first one's alone."""
    if not PACKAGE_LOGGER.handlers:
        _add_handler(logging.StreamHandler(sys.stderr))
    PACKAGE_LOGGER.setLevel(logging.INFO if rank() == 0 else logging.ERROR)
    PACKAGE_LOGGER.propagate = False  # libraries install handlers of their own on the root logger


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append the package's messages to ``path`` too.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        handler = _add_handler(logging.FileHandler(path, encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot write the log {path} ({error.strerror or error})") from error
    try:
        yield
    finally:
        PACKAGE_LOGGER.removeHandler(handler)
        handler.close()


def _add_handler(handler: logging.Handler) -> logging.Handler:
    handler.setFormatter(logging.Formatter(FORMAT, DATE_FORMAT))
    PACKAGE_LOGGER.addHandler(handler)
    return handler


@contextmanager
def progress(iterable: Iterable, total: int, description: str) -> Iterator[Any]:
    """``iterable`` with a progress bar while standard error is a terminal; log lines go above the bar."""
    with logging_redirect_tqdm([PACKAGE_LOGGER]) if sys.stderr.isatty() else _nothing():
        with tqdm(iterable, description, total, leave=False, disable=not sys.stderr.isatty() or rank() > 0) as bar:
            yield bar


@contextmanager
def _nothing() -> Iterator[None]:
    yield


class Averages:
    """Means of named values, weighted by sample counts."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, sums: dict[str, float], count: int) -> None:
        """Add values that are sums over ``count`` samples already."""
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + count

    def over_processes(self) -> Averages:
        """The averages over what every process has added."""
        joined = Averages()
        names = list(self._sums)
        sums = sum_over_processes([*self._sums.values(), *self._counts.values()])
        joined._sums = dict(zip(names, sums))
        joined._counts = dict(zip(names, sums[len(names) :]))
        return joined

    def means(self) -> dict[str, float]:
        return {name: total / self._counts[name] for name, total in self._sums.items()}

    def __str__(self) -> str:
        return ", ".join(f"{name}: {value:.5f}" for name, value in self.means().items())


class Curves:
    """Scalars for VisualDL, written to ``folder``; steps go on where an earlier run of the folder ended.

    Raises:
        UserError: VisualDL is not installed.
    """

    def __init__(self, folder: Path):
        try:
            from visualdl import LogWriter
        except ImportError as error:
            raise UserError(f"Global.use_visualdl: {error}; run: pip install visualdl") from error
        self._writer = LogWriter(logdir=str(folder))

    def add(self, values: dict[str, float], step: int, prefix: str = "") -> None:
        for name, value in values.items():
            self._writer.add_scalar(tag=prefix + name, value=value, step=step)

    def close(self) -> None:
        self._writer.close()


class Stopwatch:
    """``batch_cost``, ``reader_cost`` and ``ips`` since the last line."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.reset()

    def reset(self) -> None:
        self._batches = 0
        self._samples = 0
        self._reading = 0.0
        self._total = 0.0

    def batch_read(self) -> None:
        self._reading += time.perf_counter() - self._last

    def batch_done(self, samples: int) -> None:
        now = time.perf_counter()
        self._total += now - self._last
        self._last = now
        self._batches += 1
        self._samples += samples

    def line(self, batches_left: int | None = None, processes: int = 1) -> str:
        """The costs in seconds per batch, samples per second of all processes, and the time left."""
        batches = max(self._batches, 1)
        text = (
            f"batch_cost: {self._total / batches:.5f}s, reader_cost: {self._reading / batches:.5f}s, "
            f"ips: {processes * self._samples / max(self._total, 1e-9):.5f} samples/s"
        )
        if batches_left is not None:
            text += f", eta: {datetime.timedelta(seconds=int(batches_left * self._total / batches))}"
        return text
