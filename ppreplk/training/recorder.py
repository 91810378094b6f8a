"""What a training leaves to read: its log and its curves."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paddle

from ..config import GlobalConfig
from ..utils.atomic import make_folder
from ..utils.distributed import processes, rank
from ..utils.errors import UserError
from ..utils.log import log_to_file
from .curves import Curves
from .meters import Averages, Stopwatch

logger = logging.getLogger(__name__)


class Recorder:
    """Log lines and curves of a training. Process 0 alone writes files.

    Args:
        settings: the section ``Global``.
        batches: of an epoch.
    """

    def __init__(self, settings: GlobalConfig, batches: int):
        self.settings = settings
        self.batches = batches
        self.curves: Curves | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the log and the curves in ``output_dir`` while the block runs.

        Raises:
            UserError: the folder cannot be written to.
        """
        if rank() > 0:
            yield
            return
        output = Path(self.settings.output_dir)
        make_folder(output, "Global.output_dir")
        if not os.access(output, os.W_OK):
            raise UserError(f"{output} cannot be written to", code="training.cannot-write", where="Global.output_dir")
        with log_to_file(output / "train.log"):
            self.curves = Curves(output) if self.settings.use_visualdl else None
            try:
                yield
            finally:
                if self.curves is not None:
                    self.curves.close()

    def iteration(self, epoch: int, iteration: int, step: int, lr: float, averages: Averages, watch: Stopwatch) -> None:
        """Log the averages since the begin of an epoch, and add them to the curves at ``step``."""
        epochs = self.settings.epochs
        left = (epochs - epoch + 1) * self.batches - iteration - 1
        logger.info(
            "[Train][Epoch %d/%d][Iter: %d/%d]lr: %.8f, %s, %s",
            *(epoch, epochs, iteration, self.batches),
            *(lr, averages, watch.line(left, processes()) + self._memory()),
        )
        if self.curves is not None:
            self.curves.add({"lr": lr, **averages.means()}, step, "train_")

    def epoch(self, epoch: int, averages: Averages) -> None:
        """Log the averages of a whole epoch over all processes."""
        logger.info("[Train][Epoch %d/%d][Avg]%s", epoch, self.settings.epochs, averages.over_processes())

    def evaluation(self, results: dict[str, float], step: int, weights: str) -> None:
        """Add the results of an evaluation to the curves at ``step``.

        Args:
            results: {name: value}.
            step: updates so far.
            weights: ``raw`` or ``averaged`` with EMA, which is then part of the curves' names; otherwise empty.
        """
        if self.curves is not None:
            self.curves.add(results, step, f"eval_{weights}_" if weights else "eval_")

    def _memory(self) -> str:
        if not self.settings.print_mem_info or self.settings.device != "gpu":
            return ""
        device = paddle.device.cuda
        reserved, allocated = device.max_memory_reserved() / 2**20, device.max_memory_allocated() / 2**20
        return f", max_mem_reserved: {reserved:.2f} MB, max_mem_allocated: {allocated:.2f} MB"
