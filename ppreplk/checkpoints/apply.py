"""Putting arrays into a network: everything matches, or nothing is changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import paddle
from paddle import nn

from ..config import RGB
from ..models.registry import architecture_of, head_of, shapes_of
from ..nn.merge import form_of, merge
from ..utils.errors import UserError
from .compare import compare

logger = logging.getLogger(__name__)


def load_weights(
    model: nn.Layer,
    state: Mapping[str, np.ndarray],
    source: str,
    may_replace_head: bool = False,
    may_fit_stem: bool = False,
) -> None:
    """Overwrite all parameters and buffers of ``model``.

    Weights in train form are merged on the way into a merged network.

    Args:
        model: the network.
        state: {name: array}. Dtypes may differ; names and shapes may not.
        source: where the weights come from, for messages.
        may_replace_head: where the weights' head is for another number of classes, leave that of ``model`` as it is
            initialized, and say so.
        may_fit_stem: where the weights are for RGB images and ``model`` is not, fit the first convolution to the
            channels of ``model``, see :func:`fit_stem`, and say so.

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
    if may_fit_stem:
        state = _with_fitted_stem(model, own, state, source)
    check_match(model, state, source)
    for name, tensor in own.items():
        array = np.ascontiguousarray(state[name]).reshape(np.shape(state[name]))  # it makes a scalar an array of one
        tensor.set_value(paddle.to_tensor(array).astype(tensor.dtype))


def _with_fitted_stem(
    model: nn.Layer, own: Mapping, state: Mapping[str, np.ndarray], source: str
) -> Mapping[str, np.ndarray]:
    architecture = architecture_of(model)
    stem = "" if architecture is None else architecture.stem
    if stem not in own or stem not in state:
        return state
    channels, given = own[stem].shape[1], np.shape(state[stem])
    if channels == RGB or len(given) != 4 or given[1] != RGB:
        return state
    logger.info("%s is for RGB images; its first convolution is fitted to Arch.in_channels %d", source, channels)
    return {**state, stem: fit_stem(np.asarray(state[stem]), channels)}


def fit_stem(weight: np.ndarray, channels: int) -> np.ndarray:
    """The kernels of a first convolution for RGB images, for images of other channels.

    - One channel: the sum over the three. A grey image gives what it gave as R = G = B.
    - Two channels: half of that sum each, so that equal channels give the same.
    - Four and more: the first three keep their kernels, further ones start at 0. The network begins as it was.

    Args:
        weight: (N, 3, K, K).
        channels: of the images.

    Returns:
        (N, channels, K, K).

    >>> fit_stem(np.ones((1, 3, 1, 1)), 1).ravel(), fit_stem(np.ones((1, 3, 1, 1)), 4).ravel()
    (array([3.]), array([1., 1., 1., 0.]))
    """
    if channels < RGB:
        return np.repeat(weight.sum(axis=1, keepdims=True) / channels, channels, axis=1)
    return np.pad(weight, ((0, 0), (0, channels - RGB), (0, 0), (0, 0)))


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
        "check Arch.name, Arch.class_num, Arch.in_channels and whether the weights are in train or merged form",
        code="checkpoints.other-architecture",
    )
