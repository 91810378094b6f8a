"""Saving and restoring a training: PaddleClas's file names, written so that a crash leaves whole files.

``NAME.pdparams`` are the weights to use (the averaged ones, with EMA), ``NAME.pdema`` the raw ones beside
them (with EMA only), ``NAME.pdopt`` the optimizer, ``NAME.pdstates`` the :class:`TrainState`.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from ..errors import UserError
from ..weights import load_checkpoint, load_weights
from .ema import ExponentialMovingAverage


@dataclass
class TrainState:
    """Everything about a training beside weights and optimizer. ``epoch`` is the last finished one.

    Random draws and the order of the data are functions of seed, epoch and iteration, so no generator
    state belongs here.
    """

    seed: int
    epoch: int = 0
    step: int = 0
    best_metric: float = -1.0
    best_epoch: int = 0


def save(
    prefix: Path,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    state: TrainState,
    ema: ExponentialMovingAverage | None,
) -> None:
    """Write all files of one checkpoint; the state comes last and marks it complete.

    Raises:
        UserError: the files cannot be written.
    """
    contents: dict[str, Any] = {".pdparams": (ema.model if ema else model).state_dict()}
    if ema:
        contents[".pdema"] = model.state_dict()
    contents[".pdopt"] = _by_structure(optimizer.state_dict(), model)
    contents[".pdstates"] = dataclasses.asdict(state)
    for suffix, content in contents.items():
        _write_whole(Path(f"{prefix}{suffix}"), content)


def _write_whole(path: Path, content: Any) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        paddle.save(content, str(partial))
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {path} ({error.strerror or error})") from error


def read_state(prefix: str, with_ema: bool) -> TrainState:
    """The state of a checkpoint, after a look that all its files are there.

    Args:
        prefix: the path without suffix; ``.pdparams`` at its end is taken off.
        with_ema: whether averaged weights are wanted too.

    Raises:
        UserError: a file is missing or was not written by :func:`save`.
    """
    prefix = _without_suffix(prefix)
    suffixes = [".pdparams", ".pdopt", ".pdstates"] + ([".pdema"] if with_ema else [])
    missing = [prefix + suffix for suffix in suffixes if not os.path.isfile(prefix + suffix)]
    if missing:
        raise UserError(
            f"Global.checkpoints: cannot resume, {', '.join(missing)} missing; "
            "name a checkpoint such as output/latest, or start from weights alone with Global.pretrained_model"
        )
    states = _load(prefix + ".pdstates")
    if not isinstance(states, dict) or set(states) != {field.name for field in dataclasses.fields(TrainState)}:
        raise UserError(f"{prefix}.pdstates: not written by this version; start with Global.pretrained_model instead")
    return TrainState(**states)


def restore(
    prefix: str,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    ema: ExponentialMovingAverage | None,
) -> None:
    """Load weights, averaged weights and optimizer of a checkpoint into the given objects.

    Raises:
        UserError: a file belongs to another network or optimizer.
    """
    prefix = _without_suffix(prefix)
    raw = prefix + (".pdema" if ema else ".pdparams")
    load_weights(model, load_checkpoint(raw), raw)
    if ema:
        load_weights(ema.model, load_checkpoint(prefix + ".pdparams"), prefix + ".pdparams")
    optimizer.set_state_dict(_by_parameter(_load(prefix + ".pdopt"), model, prefix + ".pdopt"))


def _without_suffix(prefix: str) -> str:
    return prefix[: -len(".pdparams")] if prefix.endswith(".pdparams") else prefix


def _load(path: str) -> Any:
    try:
        return paddle.load(path)
    except Exception as error:  # a broken pickle raises many kinds
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {error}); is it complete?") from error


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
        if key in ("LR_Scheduler", "master_weights"):
            renamed[key] = value
            continue
        for old, new in prefixes:
            if key.startswith(old + "_"):
                renamed[new + key[len(old) :]] = value
                break
        else:
            raise UserError(f"{source}: {key} belongs to no parameter of this network")
    return renamed
