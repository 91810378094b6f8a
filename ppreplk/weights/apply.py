"""Putting arrays into a network: everything matches, or nothing is changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import paddle
from paddle import nn

from ..errors import UserError

logger = logging.getLogger(__name__)

HEAD = ("head.weight", "head.bias")


def load_weights(model: nn.Layer, state: Mapping[str, np.ndarray], source: str, may_replace_head: bool = False) -> None:
    """Overwrite all parameters and buffers of ``model``.

    Args:
        model: the network.
        state: {name: array}; dtypes may differ, names and shapes may not.
        source: where the weights come from, for messages.
        may_replace_head: where the weights' head is for another number of classes, leave that of ``model`` as it
            is initialized, and say so.

    Raises:
        UserError: names or shapes differ; the message counts them. The model is unchanged then.
    """
    own = model.state_dict()
    if may_replace_head and all(name in own and name in state for name in HEAD):
        classes, wanted = len(state["head.bias"]), own["head.bias"].shape[0]
        if classes != wanted:
            logger.info("%s has a head for %d classes; a new one for %d starts from scratch", source, classes, wanted)
            state = {**state, **{name: own[name].numpy() for name in HEAD}}
    check_match(model, state, source)
    for name, tensor in own.items():
        tensor.set_value(paddle.to_tensor(np.asarray(state[name])).astype(tensor.dtype))


def check_match(model: nn.Layer, state: Mapping[str, np.ndarray], source: str) -> None:
    """Raise a :class:`UserError` that counts matched, missing, unexpected and mis-shaped names, if any."""
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    misshaped = [name for name in own if name in state and list(own[name].shape) != list(np.shape(state[name]))]
    if not missing and not unexpected and not misshaped:
        return
    if not missing and not unexpected and set(misshaped) <= set(HEAD):
        classes, wanted = len(state["head.bias"]), own["head.bias"].shape[0]
        raise UserError(f"{source} has a head for {classes} classes, but Arch.class_num is {wanted}; make them equal")
    matched = len(own) - len(missing) - len(misshaped)
    example = ""
    if misshaped:
        name = misshaped[0]
        example = f"; {name} is {list(np.shape(state[name]))} there and {list(own[name].shape)} here"
    elif missing:
        example = f"; {missing[0]} is missing"
    elif unexpected:
        example = f"; {unexpected[0]} is not expected"
    raise UserError(
        f"{source} belongs to another architecture than {type(model).__name__}: {matched} matched, "
        f"{len(missing)} missing, {len(unexpected)} unexpected, {len(misshaped)} mis-shaped{example}; "
        "check Arch.name, Arch.class_num and whether the weights are in train or merged form"
    )
