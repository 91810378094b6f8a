"""Layer ids of RepLKNet for layer-wise learning-rate decay, as in the official fine-tuning code."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import paddle
from paddle import nn

PAIRS_IN_GROUP = 2  # (RepLK block, ConvFFN) pairs that share an id


def layer_ids(network: Any, by: Literal["group", "stage"] = "group") -> dict[str, int]:
    """{parameter name: id} for layer-wise learning-rate decay.

    By group, the stem is 0. Each stage is cut into groups of two (RepLK block, ConvFFN) pairs, numbered on from 1. A
    transition has the id of the group before it. Norm and head come after the last group. By stage, each stage has
    one id, and the stem has that of the first.
    """
    if by == "stage":
        groups = [1 for _ in network.layers]
        pairs_in_group = max(network.layers)
    else:
        groups = [-(-pairs // PAIRS_IN_GROUP) for pairs in network.layers]
        pairs_in_group = PAIRS_IN_GROUP
    last = np.cumsum(groups).tolist()  # id of each stage's last group
    head = last[-1] + 1

    def layer_id(name: str) -> int:
        part, _, rest = name.partition(".")
        if part == "stem":
            return 1 if by == "stage" else 0
        if part == "transitions":
            return last[int(rest.split(".")[0])]
        if part == "stages":
            stage_name, kind, *indices = rest.split(".")
            stage = int(stage_name)
            if kind == "norm":
                return last[stage]
            return last[stage] - groups[stage] + 1 + int(indices[0]) // (2 * pairs_in_group)
        return head

    return {name: layer_id(name) for name, _ in _trainable(network)}


def scale_learning_rates(network: Any, decay: float, by: Literal["group", "stage"]) -> None:
    """Multiply each parameter's learning rate by ``decay ** (n + 1 - id)``, n + 1 being the id of the head."""
    ids = layer_ids(network, by)
    head = max(ids.values()) + (0 if network.out_indices is None else 1)
    for name, parameter in _trainable(network):
        parameter.optimize_attr["learning_rate"] *= decay ** (head - ids[name])


def _trainable(network: nn.Layer) -> list[tuple[str, paddle.Tensor]]:
    """Named parameters without the running statistics, which Paddle counts among them."""
    return [(name, parameter) for name, parameter in network.named_parameters() if not parameter.stop_gradient]
