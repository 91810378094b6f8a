"""Putting arrays into a network: everything matches, or nothing is changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import paddle
from paddle import nn

from ..models.registry import head_of, shapes_of
from ..nn.merge import form_of, merge
from ..utils.errors import UserError
from .compare import compare

logger = logging.getLogger(__name__)


def load_weights(model: nn.Layer, state: Mapping[str, np.ndarray], source: str, may_replace_head: bool = False) -> None:
    """Overwrite all parameters and buffers of ``model``.

    Weights in train form are merged on the way into a merged network.

    Args:
        model: the network.
        state: {name: array}. Dtypes may differ; names and shapes may not.
        source: where the weights come from, for messages.
        may_replace_head: where the weights' head is for another number of classes, leave that of ``model`` as it is
            initialized, and say so.

    Raises:
        UserError: names or shapes differ; the message counts them. Or the weights are merged and the network is not.
            The model is unchanged then.

    >>> linear = nn.Linear(1, 1)
    >>> load_weights(linear, {"weight": np.array([[2.0]]), "bias": np.array([1.0])}, "two numbers")
    >>> linear(paddle.ones([1, 1])).tolist()
    [[3.0]]
    """
    own = model.state_dict()
    state = _in_form(model, own, state, source)
    head = head_of(model)
    if may_replace_head and all(name in own and name in state for name in head):
        classes, wanted = len(state[head[1]]), own[head[1]].shape[0]
        if classes != wanted:
            logger.info("%s has a head for %d classes; a new one for %d starts from scratch", source, classes, wanted)
            state = {**state, **{name: own[name].numpy() for name in head}}
    check_match(model, state, source)
    for name, tensor in own.items():
        array = np.ascontiguousarray(state[name]).reshape(np.shape(state[name]))  # it makes a scalar an array of one
        tensor.set_value(paddle.to_tensor(array).astype(tensor.dtype))


def _in_form(model: nn.Layer, own: Mapping, state: Mapping[str, np.ndarray], source: str) -> Mapping[str, np.ndarray]:
    """The weights in the form of the network, train or merged."""
    have, need = form_of(state), form_of(own)
    if have == "merged" and need == "train":
        raise UserError(
            f"{source} is in merged form: each large kernel is one convolution. The branches and statistics that this "
            f"{type(model).__name__} trains cannot be recovered from it; build it merged (Arch.merged: True) for "
            "inference, or use weights in train form",
            code="checkpoints.merged",
        )
    if have == "train" and need == "merged":
        try:
            merged = merge(state)
        except UserError as error:
            raise error.at(f"{source}: its large kernels cannot be merged") from error
        logger.info("merged the large kernels of %s on the way", source)
        return merged
    return state


def check_match(model: nn.Layer, state: Mapping[str, np.ndarray], source: str) -> None:
    """Check that weights have the names and shapes of ``model``.

    Raises:
        UserError: they do not; the message counts matched, missing, unexpected and mis-shaped names.
    """
    own, head = shapes_of(model), head_of(model)
    found = compare(own, state)
    if found.is_match:
        return
    if not found.missing and not found.unexpected and set(found.misshaped) <= set(head):
        classes, wanted = len(state[head[1]]), own[head[1]][0]
        raise UserError(
            f"{source} has a head for {classes} classes, but Arch.class_num is {wanted}; make them equal",
            code="checkpoints.other-classes",
        )
    example = ""
    if found.misshaped:
        name = found.misshaped[0]
        example = f"; {name} is {list(np.shape(state[name]))} there and {list(own[name])} here"
    elif found.missing:
        example = f"; {found.missing[0]} is missing"
    elif found.unexpected:
        example = f"; {found.unexpected[0]} is not expected"
    counts = f"{found.matched} matched, {len(found.missing)} missing, {len(found.unexpected)} unexpected"
    raise UserError(
        f"{source} belongs to another architecture than {type(model).__name__}: {counts}, "
        f"{len(found.misshaped)} mis-shaped{example}; "
        "check Arch.name, Arch.class_num and whether the weights are in train or merged form",
        code="checkpoints.other-architecture",
    )
