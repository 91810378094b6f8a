"""The checkpoints that a training leaves in its folder: which, when, and which of them stay."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import paddle
from paddle import nn

from ..config import Config
from ..utils.distributed import largest_over_processes, rank, sum_over_processes
from ..utils.errors import UserError
from . import checkpoint
from .checkpoint_files import ASIDE, WEIGHTS
from .checkpoint_search import (
    AUTO,
    EPOCH,
    LATEST,
    OURS,
    Checkpoint,
    find_newest,
    find_whole,
    is_newest,
    is_saved,
    next_run,
    remove_old,
)
from .ema import ExponentialMovingAverage
from .saved_configuration import as_mapping
from .signals import stopping_put_off
from .train_state import TrainState

logger = logging.getLogger(__name__)


class Saver:
    """The checkpoints of one training. Process 0 alone writes.

    Args:
        config: of the training.
    """

    def __init__(self, config: Config):
        self.settings = config.Global
        self.folder = Path(config.Global.output_dir)
        self.with_ema = config.EMA is not None
        self.configuration = as_mapping(config)
        self.newest: str | None = None  # checkpoint to go on from
        self.goes_on = False  # with the last run of the folder

    def find_start(self, optimizer: str) -> Checkpoint | None:
        """The checkpoint that ``Global.checkpoints`` asks for; None is a fresh start.

        Args:
            optimizer: ``Optimizer.name``.

        Raises:
            UserError: it is damaged, or does not fit the training.
        """
        name, found = self.settings.checkpoints, None
        if name == AUTO:
            found = find_newest(self.folder, optimizer, self.with_ema)
        elif name is not None:
            found = find_whole(name, optimizer, self.with_ema)
        self.newest = found.prefix if found else None
        return found

    def begin(self, state: TrainState, resumed: Checkpoint | None) -> None:
        """Number the run, so that what it saves is newer than what lies in the folder, unless it goes on from that.

        What a run that was killed has left aside there goes to its place, or goes.
        """
        if resumed is not None and is_in(self.folder, resumed):
            self.goes_on = self.settings.checkpoints == AUTO or is_newest(self.folder, state)
            if not self.goes_on:
                logger.warning("%s holds newer checkpoints than %s; they will be overwritten", self.folder, state)
        if not self.goes_on:
            state.run = next_run(self.folder)
        largest_over_processes(0)  # until then, other processes may read what lies aside
        if rank() == 0:
            names = {path.name.partition(".")[0] for path in self.folder.glob(f"*{ASIDE}")}
            for name in filter(OURS.match, names):
                with suppress(OSError):  # saving says what is wrong with the folder
                    checkpoint.settle(self.folder / name)

    # ----------------------------------------------------------------------------------------------------

    def names(self, epoch: int) -> list[str]:
        """Names of the checkpoints that are due at the end of an epoch, beside that of the best model."""
        interval = self.settings.save_interval
        return [*([f"{EPOCH}{epoch}"] if interval > 0 and epoch % interval == 0 else []), LATEST]

    def missing(self, state: TrainState) -> list[str]:
        """Those of them that a run which was stopped between two has not written; ``state`` is the end of an epoch."""
        if not self.goes_on:
            return []
        return [name for name in self.names(state.epoch) if not is_saved(self.folder / name, state)]

    def save(
        self,
        prefix: Path,
        model: nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        state: TrainState,
        ema: ExponentialMovingAverage | None,
    ) -> None:
        """Write a checkpoint. A signal to stop waits for its end.

        Raises:
            UserError: it cannot be written; the one of this name before it is untouched.
        """
        with stopping_put_off():
            checkpoint.save(prefix, model, optimizer, state, ema, self.configuration)
            self.newest = str(prefix)
            logger.info("saved %s, %s", prefix, state)

    def remove_old(self, run: int) -> None:
        """Remove what ``Global.keep_checkpoints`` does not keep."""
        if self.settings.keep_checkpoints is not None:
            try:
                remove_old(self.folder, self.settings.keep_checkpoints, run)
            except OSError as error:
                logger.warning("an old checkpoint cannot be removed (%s)", error)

    @contextmanager
    def saying_where_to_go_on(self) -> Iterator[None]:
        """If the block is interrupted, log how to go on."""
        try:
            yield
        except KeyboardInterrupt:
            if rank() == 0 and self.newest is None:
                logger.info("stopped before anything was saved")
            elif rank() == 0:
                logger.info("stopped; go on with -o Global.checkpoints=%s", self.newest)
            raise


def is_in(folder: Path, found: Checkpoint) -> bool:
    """Whether a checkpoint lies in ``folder``."""
    return Path(found.prefix).absolute().parent.resolve() == folder.resolve()


def check_same_start(state: TrainState, resumed: Checkpoint | None) -> None:
    """All processes must go on from the same moment and weights; each has looked for its checkpoint itself.

    Raises:
        UserError: they do not see the same checkpoints.
    """
    digest = int(resumed.manifest.digests[WEIGHTS][:12], 16) if resumed else 0  # exact as a float64
    own = [state.seed, *state.position, state.step, digest]
    every = sum_over_processes(own if rank() == 0 else [0] * len(own))
    differing = sum_over_processes([float(every != own)])
    if differing[0] > 0:
        source = f"{resumed.prefix}, {state}" if resumed else "the beginning"
        raise UserError(
            f"the processes of this training go on from different checkpoints, process {rank()} from {source}; "
            "output_dir and the checkpoint must lie where all of them see the same files",
            code="training.different-starts",
            where="Global.checkpoints",
        )
