"""Name maps between the checkpoint layouts of other implementations and ours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# PyTorch's buffers of a batch normalization under Paddle's names
BUFFERS = {"running_mean": "_mean", "running_var": "_variance"}
LINEAR_WEIGHTS = ("head.weight",)  # (out, in) in PyTorch, (in, out) in Paddle


def from_official(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Official PyTorch names and shapes to ours: only BN buffers and the head differ.

    ``num_batches_tracked`` has no counterpart and is dropped.
    """
    converted = {}
    for name, value in state.items():
        stem, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        ours = f"{stem}.{BUFFERS[leaf]}" if leaf in BUFFERS else name
        converted[ours] = np.ascontiguousarray(value.T) if name in LINEAR_WEIGHTS else value
    return converted
