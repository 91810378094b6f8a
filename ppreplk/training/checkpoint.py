"""Saving and restoring a training, under PaddleClas's file names.

The files of a checkpoint (:mod:`~ppreplk.training.checkpoint_files`) change as one. All new files are written aside
first. Then ``NAME.pdstates`` is replaced. This one rename is the change: from here on the digests name the new files.
The others take their places after it. A reader takes the file that a digest names, from its place or from aside. So
the checkpoint is the old one or the new one, wherever a crash falls. Files and folder are synced before the change and
after it, so that this holds for a machine that loses its power too.

Reading runs no code of the files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ..checkpoints.apply import load_weights
from ..checkpoints.convert import load_checkpoint
from ..checkpoints.files import load_arrays
from ..utils.digests import blake2b_of
from ..utils.errors import UserError
from ..utils.version import __version__
from .checkpoint_files import (
    OPTIMIZER,
    RAW_WEIGHTS,
    STATES,
    SUFFIXES,
    WEIGHTS,
    Manifest,
    aside,
    place,
    read_manifest,
    sync,
)
from .checkpoint_search import Checkpoint
from .ema import ExponentialMovingAverage
from .train_state import TrainState

# --------------------------------------------------------------------------------------------------------
# Writing


def save(
    prefix: Path,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    state: TrainState,
    ema: ExponentialMovingAverage | None,
    configuration: Mapping[str, Any] | None = None,
) -> None:
    """Write all files of one checkpoint. Until that is done, the one of this name before it stays.

    Args:
        prefix: its path without suffix.
        model, optimizer, state, ema: what it holds.
        configuration: of the training, for its manifest.

    Raises:
        UserError: the files cannot be written.
    """
    contents: dict[str, Any] = {WEIGHTS: (ema.model if ema else model).state_dict()}
    if ema:
        contents[RAW_WEIGHTS] = model.state_dict()
    contents[OPTIMIZER] = _by_structure(optimizer.state_dict(), model)
    folder = prefix.absolute().parent
    try:
        settle(prefix)
        _write_aside(prefix, contents, state, configuration or {})
        sync(folder)
        os.replace(aside(prefix, STATES), place(prefix, STATES))  # the change
        sync(folder)
        for suffix in contents:
            os.replace(aside(prefix, suffix), place(prefix, suffix))
        if not ema:
            place(prefix, RAW_WEIGHTS).unlink(missing_ok=True)  # of an earlier run
        sync(folder)
    except BaseException as error:
        with suppress(OSError):
            settle(prefix)
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise UserError(f"cannot write {prefix}{WEIGHTS} ({reason})", code="training.cannot-write") from error
        raise


def _write_aside(
    prefix: Path, contents: Mapping[str, Any], state: TrainState, configuration: Mapping[str, Any]
) -> None:
    digests, sizes = {}, {}
    for suffix, content in contents.items():
        path = aside(prefix, suffix)
        paddle.save(content, str(path))
        digests[suffix], sizes[suffix] = blake2b_of(path), path.stat().st_size
    manifest = Manifest(state, digests, sizes, dict(configuration), versions())
    aside(prefix, STATES).write_text(manifest.text(), encoding="utf-8")
    for suffix in (*contents, STATES):
        sync(aside(prefix, suffix))


def settle(prefix: Path) -> None:
    """Move files that are aside to their places if the checkpoint is made of them; remove the others.

    Raises:
        OSError: that cannot be done.
    """
    paths = {suffix: path for suffix in SUFFIXES if (path := aside(prefix, suffix)).exists()}
    if not paths:
        return
    try:
        digests = read_manifest(prefix).digests
    except (OSError, ValueError):  # there is no checkpoint of this name yet, or no whole one
        digests = {}
    for suffix, path in paths.items():
        if suffix in digests and blake2b_of(path) == digests[suffix]:
            os.replace(path, place(prefix, suffix))
        else:
            path.unlink()


def versions() -> dict[str, str]:
    """Versions of what decides the numbers of a training."""
    return {"ppreplk": __version__, "paddle": paddle.__version__, "numpy": np.__version__}


# --------------------------------------------------------------------------------------------------------
# Restoring


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
