"""Saving and restoring a training, under PaddleClas's file names.

``NAME.pdparams`` are the weights to use (the averaged ones, with EMA), ``NAME.pdema`` the raw ones beside
them (with EMA only), ``NAME.pdopt`` the optimizer, ``NAME.pdstates`` the :class:`TrainState` in JSON with
digests of the other files. All are written aside and renamed together, and the digests tell files of
different moments apart. Reading them runs no code of theirs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ..checkpoints import load_checkpoint, load_weights
from ..checkpoints.files import load_arrays
from ..utils.atomic import replacing
from ..utils.errors import UserError
from .ema import ExponentialMovingAverage

STATES = ".pdstates"


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
    """

    seed: int
    optimizer: str
    epoch: int = 0
    step: int = 0
    best_metric: float = -1.0
    best_epoch: int = 0
    loss_scale: dict[str, float] = field(default_factory=dict)


def save(
    prefix: Path,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    state: TrainState,
    ema: ExponentialMovingAverage | None,
) -> None:
    """Write all files of one checkpoint.

    Raises:
        UserError: the files cannot be written.
    """
    contents: dict[str, Any] = {".pdparams": (ema.model if ema else model).state_dict()}
    if ema:
        contents[".pdema"] = model.state_dict()
    contents[".pdopt"] = _by_structure(optimizer.state_dict(), model)
    with replacing(*(Path(f"{prefix}{suffix}") for suffix in (*contents, STATES))) as partials:
        for partial, content in zip(partials, contents.values()):
            paddle.save(content, str(partial))
        digests = {suffix: _digest(partial) for suffix, partial in zip(contents, partials)}
        text = json.dumps({**dataclasses.asdict(state), "digests": digests}, indent=1)
        partials[-1].write_text(text + "\n", encoding="utf-8")
    if not ema:
        Path(f"{prefix}.pdema").unlink(missing_ok=True)  # of an earlier run


def _digest(path: str | Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_state(prefix: str, optimizer: str, with_ema: bool) -> TrainState:
    """The state of a checkpoint, after a look that its files are there, whole and of one moment.

    Args:
        prefix: the path without suffix; ``.pdparams`` at its end is taken off.
        optimizer: ``Optimizer.name`` of the training that goes on.
        with_ema: whether that training averages weights.

    Raises:
        UserError: a file is missing, broken, or of another moment, or the trainings do not fit.
    """
    prefix = _without_suffix(prefix)
    suffixes = [".pdparams", ".pdopt", STATES] + ([".pdema"] if with_ema else [])
    missing = [prefix + suffix for suffix in suffixes if not os.path.isfile(prefix + suffix)]
    if missing:
        raise UserError(
            f"cannot resume, {', '.join(missing)} missing; name a checkpoint such as output/latest, or start from "
            "weights alone with Global.pretrained_model",
            code="training.incomplete-checkpoint",
            where="Global.checkpoints",
        )
    try:
        content = json.loads(Path(prefix + STATES).read_text(encoding="utf-8"))
        digests = content.pop("digests")
        state = TrainState(**content)
        differing = [prefix + suffix for suffix, digest in digests.items() if _digest(prefix + suffix) != digest]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"not a whole checkpoint of this version ({error})",
            code="training.incomplete-checkpoint",
            where=prefix + STATES,
        ) from error
    if differing:
        raise UserError(
            f"{' and '.join(differing)}: not saved together with {prefix}{STATES}; resume from another checkpoint",
            code="training.incomplete-checkpoint",
        )
    if state.optimizer != optimizer:
        raise UserError(
            f"was trained with {state.optimizer}, but Optimizer.name is {optimizer}",
            code="training.wrong-checkpoint",
            where=prefix,
        )
    if ".pdema" in digests and not with_ema:
        raise UserError(
            "holds averaged weights; resume with the section EMA it was trained with",
            code="training.wrong-checkpoint",
            where=prefix,
        )
    return state


def restore(
    prefix: str,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    ema: ExponentialMovingAverage | None,
) -> None:
    """Load weights, averaged weights and optimizer of a checkpoint into the given objects.

    Raises:
        UserError: a file belongs to another network.
    """
    prefix = _without_suffix(prefix)
    raw = prefix + (".pdema" if ema else ".pdparams")
    load_weights(model, load_checkpoint(raw), raw)
    if ema:
        load_weights(ema.model, load_checkpoint(prefix + ".pdparams"), prefix + ".pdparams")
    content = load_arrays(prefix + ".pdopt")
    optimizer.set_state_dict(_as_tensors(_by_parameter(content, model, prefix + ".pdopt")))


def _without_suffix(prefix: str) -> str:
    return prefix[: -len(".pdparams")] if prefix.endswith(".pdparams") else prefix


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
