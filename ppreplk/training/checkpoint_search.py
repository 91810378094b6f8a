"""Which checkpoint a training goes on from."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..utils.errors import UserError
from .checkpoint_files import (
    OPTIMIZER,
    RAW_WEIGHTS,
    STATES,
    WEIGHTS,
    Manifest,
    copies,
    damage,
    place,
    read_manifest,
    remove,
    without_suffix,
)
from .train_state import TrainState

logger = logging.getLogger(__name__)

AUTO = "auto"  # value of Global.checkpoints: the newest whole checkpoint, or a fresh start
LATEST, BEST, EPOCH = "latest", "best_model", "epoch_"
OURS = re.compile(rf"(?:{LATEST}|{BEST}|{EPOCH}\d+)\Z")  # names that a training gives its checkpoints
INCOMPLETE = "training.incomplete-checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole.

    Args:
        prefix: its path without suffix.
        state: where its training was.
        files: {suffix: path} of the files beside ``.pdstates``.
        manifest: what ``.pdstates`` says besides.
    """

    prefix: str
    state: TrainState
    files: dict[str, Path]
    manifest: Manifest = field(repr=False)


def find_newest(folder: str | Path, optimizer: str, with_ema: bool) -> Checkpoint | None:
    """Find the newest whole checkpoint of a run: ``latest``, ``best_model`` or ``epoch_N``; None if there is none.

    The newest is the one that came furthest. A warning names each newer one that is damaged, and how.

    Args:
        folder: of the run.
        optimizer, with_ema: see :func:`find_whole`.

    Raises:
        UserError: all are damaged, or the newest whole one does not fit the training.
    """
    damaged: list[str] = []
    for prefix in _newest_first(folder):
        try:
            found = find_whole(prefix, optimizer, with_ema)
        except UserError as error:
            if error.code != INCOMPLETE:
                raise
            damaged.append(str(error))
            continue
        for problem in damaged:
            logger.warning("passed over: %s", problem)
        return found
    if damaged:
        raise UserError(
            f"no checkpoint in {folder} is whole: {'; '.join(damaged)}; move them away to start anew",
            code=INCOMPLETE,
            where="Global.checkpoints",
        )
    logger.info("Global.checkpoints is auto, and %s holds no checkpoint: a fresh start", folder)
    return None


def _newest_first(folder: str | Path) -> list[str]:
    """Prefixes of a run's checkpoints. Those whose position cannot be read come first; of equals, ``latest``."""
    names = {path.name.partition(".")[0] for suffix in (STATES, WEIGHTS) for path in Path(folder).glob(f"*{suffix}")}
    prefixes = [os.path.join(folder, name) for name in sorted(names, reverse=True) if OURS.match(name)]
    order = {}
    for prefix in prefixes:
        state = _state(prefix)
        order[prefix] = (state is None, state.position if state else (), os.path.basename(prefix) == LATEST)
    return sorted(prefixes, key=order.__getitem__, reverse=True)


def _state(prefix: str | Path) -> TrainState | None:
    try:
        return read_manifest(prefix).state
    except (OSError, ValueError):
        return None


def is_saved(prefix: str | Path, state: TrainState) -> bool:
    """Whether the checkpoint ``prefix`` is whole, and of the same moment as ``state`` or of a later one."""
    try:
        manifest = read_manifest(prefix)
    except (OSError, ValueError):
        return False
    return manifest.state.position >= state.position and not damage(prefix, manifest)[1]


def next_run(folder: str | Path) -> int:
    """The number of a run whose checkpoints shall count as newer than all in ``folder``."""
    states = [_state(prefix) for prefix in _newest_first(folder)]
    return max((state.run + 1 for state in states if state is not None), default=0)


def is_newest(folder: str | Path, state: TrainState) -> bool:
    """Whether no checkpoint in ``folder`` is newer than ``state``."""
    states = [_state(prefix) for prefix in _newest_first(folder)]
    return all(other is None or other.position <= state.position for other in states)


def remove_old(folder: str | Path, keep: int, run: int) -> None:
    """Remove the checkpoints ``epoch_N`` of a run but the ``keep`` newest. Nothing else is touched.

    Raises:
        OSError: a file cannot be removed.
    """
    found: list[tuple[int, str, Manifest]] = []
    for prefix in _newest_first(folder):
        try:
            manifest = read_manifest(prefix)
        except (OSError, ValueError):
            continue
        if os.path.basename(prefix) == f"{EPOCH}{manifest.state.epoch}" and manifest.state.run == run:
            found.append((manifest.state.epoch, prefix, manifest))
    for _, prefix, manifest in sorted(found, key=lambda entry: entry[0])[:-keep]:
        remove(prefix, manifest)
        logger.info("removed %s", prefix)


# --------------------------------------------------------------------------------------------------------
# One checkpoint


def find_whole(prefix: str, optimizer: str, with_ema: bool) -> Checkpoint:
    """Find the checkpoint to resume from, and check that all its files are there and were saved together.

    Args:
        prefix: the path, with or without a suffix.
        optimizer: ``Optimizer.name`` of the training that goes on.
        with_ema: whether that training averages weights.

    Raises:
        UserError: a file is missing, broken, or was not saved with the others; or the trainings do not fit.
    """
    prefix = without_suffix(prefix)
    if not place(prefix, STATES).is_file():
        raise _missing(prefix)
    try:
        manifest = read_manifest(prefix)
    except (OSError, ValueError) as error:
        raise UserError(
            f"not a whole checkpoint of this version ({error})", code=INCOMPLETE, where=f"{prefix}{STATES}"
        ) from error
    files, problems = damage(prefix, manifest)
    if problems:
        raise UserError(
            f"the checkpoint {prefix} is damaged: {', '.join(problems)}; resume from another checkpoint, or with "
            "Global.checkpoints=auto from the newest whole one",
            code=INCOMPLETE,
        )
    _check_training(prefix, manifest, optimizer, with_ema)
    return Checkpoint(prefix, manifest.state, files, manifest)


def _check_training(prefix: str, manifest: Manifest, optimizer: str, with_ema: bool) -> None:
    problem, has_ema = None, RAW_WEIGHTS in manifest.digests
    if manifest.state.optimizer != optimizer:
        problem = f"was trained with {manifest.state.optimizer}, but Optimizer.name is {optimizer}"
    elif has_ema and not with_ema:
        problem = "holds averaged weights; resume with the section EMA it was trained with"
    elif with_ema and not has_ema:
        problem = "holds no averaged weights; resume without the section EMA, as it was trained"
    if problem:
        raise UserError(problem, code="training.wrong-checkpoint", where=prefix)


def _missing(prefix: str) -> UserError:
    if os.path.isdir(prefix):
        inside = sorted(str(path.with_suffix("")) for path in Path(prefix).glob(f"*{STATES}"))
        problem = f"{prefix} is a folder; name a checkpoint in it"
        advice = f": {' or '.join(inside)}" if inside else ", but there is none"
    else:
        suffixes: Sequence[str] = [suffix for suffix in (WEIGHTS, OPTIMIZER, STATES) if not copies(prefix, suffix)]
        problem = f"cannot resume, {', '.join(prefix + suffix for suffix in suffixes)} missing; "
        advice = "name a checkpoint such as output/latest, or start from weights alone with Global.pretrained_model"
    return UserError(problem + advice, code=INCOMPLETE, where="Global.checkpoints")
