"""Saving and restoring a training, under PaddleClas's file names.

A checkpoint ``NAME`` is several files:

- ``NAME.pdparams``: the weights to use, which are the averaged ones with EMA;
- ``NAME.pdema``: the raw weights, with EMA only;
- ``NAME.pdopt``: the optimizer;
- ``NAME.pdstates``: the :class:`TrainState` in JSON, with digests of the other files.

They change as one. All new files are written aside first, with the further suffix ``.next``. Then ``NAME.pdstates``
is replaced. This one rename is the change: from here on the digests name the new files. The others take their places
after it. A reader takes the file that a digest names, from its place or from aside. So the checkpoint is the old one
or the new one, wherever a crash falls.

Reading runs no code of the files.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import paddle
from paddle import nn

from ..checkpoints.apply import load_weights
from ..checkpoints.convert import load_checkpoint
from ..checkpoints.files import load_arrays
from ..utils.digests import blake2b_of
from ..utils.errors import UserError
from .ema import ExponentialMovingAverage

WEIGHTS, RAW_WEIGHTS, OPTIMIZER, STATES = ".pdparams", ".pdema", ".pdopt", ".pdstates"
SUFFIXES = (WEIGHTS, RAW_WEIGHTS, OPTIMIZER, STATES)
ASIDE = ".next"


@dataclass
class TrainState:
    """Everything about a training beside weights and optimizer.

    Random draws and the order of the data are functions of seed, epoch and iteration, so no generator state
    belongs here.

    Args:
        seed: of data order and random draws.
        optimizer: ``Optimizer.name``.
        epoch: the last finished one, counted from 1.
        step: updates of the weights so far.
        best_metric, best_epoch: of the best model so far.
        loss_scale: see :meth:`ppreplk.training.precision.Precision.loss_scale`.
        classes: names in the order of their numbers, where the training images have names for them.
        bad_images: paths of the training images that could not be used and were skipped.
    """

    seed: int
    optimizer: str
    epoch: int = 0
    step: int = 0
    best_metric: float = -1.0
    best_epoch: int = 0
    loss_scale: dict[str, float] = field(default_factory=dict)
    classes: Optional[list[str]] = None
    bad_images: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole.

    Args:
        prefix: its path without suffix.
        state: what ``.pdstates`` holds.
        files: {suffix: path} of the other files.
    """

    prefix: str
    state: TrainState
    files: dict[str, Path]


# --------------------------------------------------------------------------------------------------------
# Writing


def save(
    prefix: Path,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    state: TrainState,
    ema: ExponentialMovingAverage | None,
) -> None:
    """Write all files of one checkpoint. Until that is done, the one of this name before it stays.

    Raises:
        UserError: the files cannot be written.
    """
    contents: dict[str, Any] = {WEIGHTS: (ema.model if ema else model).state_dict()}
    if ema:
        contents[RAW_WEIGHTS] = model.state_dict()
    contents[OPTIMIZER] = _by_structure(optimizer.state_dict(), model)
    try:
        _clear_aside(prefix)
        _write_aside(prefix, contents, state)
        for suffix in (STATES, *contents):  # the first rename is the change
            os.replace(_aside(prefix, suffix), _place(prefix, suffix))
        if not ema:
            _place(prefix, RAW_WEIGHTS).unlink(missing_ok=True)  # of an earlier run
    except BaseException as error:
        with suppress(OSError):
            _clear_aside(prefix)
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise UserError(f"cannot write {prefix}{WEIGHTS} ({reason})", code="training.cannot-write") from error
        raise


def _write_aside(prefix: Path, contents: Mapping[str, Any], state: TrainState) -> None:
    digests = {}
    for suffix, content in contents.items():
        path = _aside(prefix, suffix)
        paddle.save(content, str(path))
        digests[suffix] = blake2b_of(path)
    text = json.dumps({**dataclasses.asdict(state), "digests": digests}, indent=1)
    _aside(prefix, STATES).write_text(text + "\n", encoding="utf-8")
    for suffix in (*contents, STATES):
        with open(_aside(prefix, suffix), "rb+") as file:
            os.fsync(file.fileno())  # content reaches the disk before the renames do


def _clear_aside(prefix: Path) -> None:
    """Move files that are aside to their places if the checkpoint is made of them; remove the others."""
    paths = {suffix: path for suffix in SUFFIXES if (path := _aside(prefix, suffix)).exists()}
    if not paths:
        return
    try:
        _, digests = _read_states(prefix)
    except (OSError, ValueError):  # there is no checkpoint of this name yet, or no whole one
        digests = {}
    for suffix, path in paths.items():
        if suffix in digests and blake2b_of(path) == digests[suffix]:
            os.replace(path, _place(prefix, suffix))
        else:
            path.unlink()


def _place(prefix: str | Path, suffix: str) -> Path:
    return Path(f"{prefix}{suffix}")


def _aside(prefix: str | Path, suffix: str) -> Path:
    return Path(f"{prefix}{suffix}{ASIDE}")


# --------------------------------------------------------------------------------------------------------
# Reading


def find_whole(prefix: str, optimizer: str, with_ema: bool) -> Checkpoint:
    """Find the checkpoint to resume from, and check that all its files are there and were saved together.

    Args:
        prefix: the path, with or without a suffix.
        optimizer: ``Optimizer.name`` of the training that goes on.
        with_ema: whether that training averages weights.

    Raises:
        UserError: a file is missing, broken, or was not saved with the others; or the trainings do not fit.
    """
    prefix = _without_suffix(prefix)
    if not _place(prefix, STATES).is_file():
        raise _missing(prefix, [suffix for suffix in (WEIGHTS, OPTIMIZER, STATES) if not _copies(prefix, suffix)])
    try:
        state, digests = _read_states(prefix)
    except (OSError, ValueError) as error:
        raise UserError(
            f"not a whole checkpoint of this version ({error})",
            code="training.incomplete-checkpoint",
            where=f"{prefix}{STATES}",
        ) from error
    missing = [suffix for suffix in digests if not _copies(prefix, suffix)]
    if missing:
        raise _missing(prefix, missing)
    matching = {
        suffix: [path for path in _copies(prefix, suffix) if blake2b_of(path) == digest]
        for suffix, digest in digests.items()
    }
    differing = [f"{prefix}{suffix}" for suffix, paths in matching.items() if not paths]
    if differing:
        raise UserError(
            f"{' and '.join(differing)}: not saved together with {prefix}{STATES}; resume from another checkpoint",
            code="training.incomplete-checkpoint",
        )
    _check_training(prefix, state, RAW_WEIGHTS in digests, optimizer, with_ema)
    return Checkpoint(prefix, state, {suffix: paths[0] for suffix, paths in matching.items()})


def _check_training(prefix: str, state: TrainState, has_ema: bool, optimizer: str, with_ema: bool) -> None:
    problem = None
    if state.optimizer != optimizer:
        problem = f"was trained with {state.optimizer}, but Optimizer.name is {optimizer}"
    elif has_ema and not with_ema:
        problem = "holds averaged weights; resume with the section EMA it was trained with"
    elif with_ema and not has_ema:
        problem = "holds no averaged weights; resume without the section EMA, as it was trained"
    if problem:
        raise UserError(problem, code="training.wrong-checkpoint", where=prefix)


def _without_suffix(prefix: str) -> str:
    for suffix in SUFFIXES:
        if prefix.endswith(suffix):
            return prefix[: -len(suffix)]
    return prefix


def _copies(prefix: str, suffix: str) -> list[Path]:
    """The file in its place and the one aside, of those that exist."""
    return [path for path in (_place(prefix, suffix), _aside(prefix, suffix)) if path.is_file()]


def _read_states(prefix: str | Path) -> tuple[TrainState, dict[str, str]]:
    """State and digests of a checkpoint.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else.
    """
    content = json.loads(_place(prefix, STATES).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("digests"), dict):
        raise ValueError("no digests of the other files")
    digests = content.pop("digests")
    if not {WEIGHTS, OPTIMIZER} <= set(digests) <= set(SUFFIXES):
        raise ValueError(f"digests of {', '.join(digests)}")
    try:
        return TrainState(**content), digests
    except TypeError as error:
        raise ValueError(str(error)) from error


def _missing(prefix: str, suffixes: Sequence[str]) -> UserError:
    if os.path.isdir(prefix):
        inside = sorted(str(path.with_suffix("")) for path in Path(prefix).glob(f"*{STATES}"))
        problem = f"{prefix} is a folder; name a checkpoint in it"
        advice = f": {' or '.join(inside)}" if inside else ", but there is none"
    else:
        problem = f"cannot resume, {', '.join(prefix + suffix for suffix in suffixes)} missing; "
        advice = "name a checkpoint such as output/latest, or start from weights alone with Global.pretrained_model"
    return UserError(problem + advice, code="training.incomplete-checkpoint", where="Global.checkpoints")


def restore(
    checkpoint: Checkpoint,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    ema: ExponentialMovingAverage | None,
) -> None:
    """Load weights, averaged weights and optimizer of a checkpoint into the given objects.

    Raises:
        UserError: a file belongs to another network.
    """
    weights = [(RAW_WEIGHTS, model), (WEIGHTS, ema.model)] if ema else [(WEIGHTS, model)]
    for suffix, network in weights:
        path = str(checkpoint.files[suffix])
        load_weights(network, load_checkpoint(path), path)
    path = str(checkpoint.files[OPTIMIZER])
    optimizer.set_state_dict(_as_tensors(_by_parameter(load_arrays(path), model, path)))


def _as_tensors(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _as_tensors(value) for name, value in content.items()}
    return paddle.to_tensor(content) if isinstance(content, np.ndarray) else content


# Paddle keys the optimizer's tensors by internal parameter names ("conv2d_3.w_0_moment1_0"), which depend on
# what else the process has built. In a file they are keyed by the parameter's place in the network.


def _by_structure(state: dict[str, Any], model: nn.Layer) -> dict[str, Any]:
    places = sorted(((parameter.name, name) for name, parameter in model.named_parameters()), reverse=True)
    return _renamed(state, places, "optimizer state")


def _by_parameter(state: dict[str, Any], model: nn.Layer, source: str) -> dict[str, Any]:
    names = sorted(((name, parameter.name) for name, parameter in model.named_parameters()), reverse=True)
    return _renamed(state, names, source)


def _renamed(state: dict[str, Any], prefixes: list[tuple[str, str]], source: str) -> dict[str, Any]:
    renamed = {}
    for key, value in state.items():
        if key == "LR_Scheduler":
            renamed[key] = value
            continue
        if key == "master_weights":
            renamed[key] = _renamed(value, prefixes, source)
            continue
        for old, new in prefixes:
            if key == old or key.startswith(old + "_"):
                renamed[new + key[len(old) :]] = value
                break
        else:
            raise UserError(
                f"{key} belongs to no parameter of this network", code="training.wrong-checkpoint", where=source
            )
    return renamed
