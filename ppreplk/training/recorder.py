"""What a training leaves to read: its log, its numbers and its curves."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import paddle

from ..config import GlobalConfig
from ..utils.atomic import make_folder
from ..utils.distributed import processes, rank
from ..utils.errors import UserError
from ..utils.figures import matplotlib_problem
from ..utils.folder_lock import only_process_in
from ..utils.log import log_to_file
from .checkpoint_search import Checkpoint
from .curve_picture import draw_curves
from .curves import Curves
from .meters import Averages, Stopwatch
from .metrics_file import MetricsFile, read_metrics
from .saving import is_in

METRICS, PICTURE = "metrics.csv", "curves.png"

logger = logging.getLogger(__name__)


class Recorder:
    """Log lines, numbers and curves of a training. Process 0 alone writes files.

    Args:
        settings: the section ``Global``.
        batches: of an epoch.
        resumed: the checkpoint that the training goes on from.
    """

    def __init__(self, settings: GlobalConfig, batches: int, resumed: Checkpoint | None):
        self.settings = settings
        self.batches = batches
        goes_on = resumed is not None and is_in(Path(settings.output_dir), resumed)
        self.resumed_step = resumed.state.step if resumed and goes_on else None
        self.curves: Curves | None = None
        self.metrics: MetricsFile | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep log, numbers and curves in ``output_dir`` while the block runs, and draw them when it is done.

        Raises:
            UserError: the folder cannot be written to, or another training writes there.
        """
        if rank() > 0:
            yield
            return
        output = Path(self.settings.output_dir)
        make_folder(output, "Global.output_dir")
        if not os.access(output, os.W_OK):
            raise UserError(f"{output} cannot be written to", code="training.cannot-write", where="Global.output_dir")
        alone = only_process_in(output, "another training", "Global.output_dir")
        with alone, log_to_file(output / "train.log"), ExitStack() as files:
            if self.settings.use_visualdl:
                self.curves = Curves(output)
                files.callback(self.curves.close)
            self.metrics = MetricsFile(output / METRICS, self.resumed_step)
            files.callback(self.metrics.close)
            yield
            self._draw(output)

    def iteration(
        self,
        epoch: int,
        iteration: int,
        step: int,
        numbers: Mapping[str, float],
        averages: Averages,
        watch: Stopwatch,
    ) -> None:
        """Log the averages since the beginning of an epoch, and add them to the curves at ``step``.

        Args:
            epoch, iteration, step: counted from 1, from 0 and from 1.
            numbers: of this moment: the learning rate ``lr`` and others.
            averages: losses and metrics.
            watch: what the batches took.
        """
        epochs = self.settings.epochs
        left = (epochs - epoch + 1) * self.batches - iteration - 1
        others = "".join(f", {name}: {value:g}" for name, value in numbers.items() if name != "lr")
        logger.info(
            "[Train][Epoch %d/%d][Iter: %d/%d]lr: %.8f, %s, %s",
            *(epoch, epochs, iteration, self.batches),
            *(numbers["lr"], averages, watch.line(left, processes()) + others + self._memory()),
        )
        self._add(epoch, step, "train", {**numbers, **averages.means()})

    def epoch(self, epoch: int, step: int, averages: Averages) -> None:
        """Log the averages of a whole epoch over all processes."""
        joined = averages.over_processes()
        logger.info("[Train][Epoch %d/%d][Avg]%s", epoch, self.settings.epochs, joined)
        if self.metrics is not None:
            self.metrics.add(epoch, step, "train_epoch", joined.means())

    def evaluation(self, results: dict[str, float], epoch: int, step: int, weights: str) -> None:
        """Add the results of an evaluation to the curves at ``step``.

        Args:
            results: {name: value}.
            epoch: the one that has ended.
            step: updates so far.
            weights: ``raw`` or ``averaged`` with EMA, which is then part of the curves' names; otherwise empty.
        """
        self._add(epoch, step, f"eval_{weights}" if weights else "eval", results)

    def _add(self, epoch: int, step: int, split: str, values: Mapping[str, float]) -> None:
        if self.curves is not None:
            self.curves.add(values, step, f"{split}_")
        if self.metrics is not None:
            self.metrics.add(epoch, step, split, values)

    def _draw(self, output: Path) -> None:
        problem = matplotlib_problem()
        if problem is None:
            draw_curves(read_metrics(output / METRICS), self.batches // self.settings.update_freq, output / PICTURE)
        else:
            logger.info("%s is not drawn: %s", output / PICTURE, problem)

    def _memory(self) -> str:
        if not self.settings.print_mem_info or self.settings.device != "gpu":
            return ""
        device = paddle.device.cuda
        reserved, allocated = device.max_memory_reserved() / 2**20, device.max_memory_allocated() / 2**20
        return f", max_mem_reserved: {reserved:.2f} MB, max_mem_allocated: {allocated:.2f} MB"
