"""The processes of a training that ``python -m paddle.distributed.launch`` started."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import nn

from .rank import rank


def processes() -> int:
    """Number of processes of this training; 1 without the launcher."""
    return paddle.distributed.get_world_size()


def sum_over_processes(values: Sequence[float] | np.ndarray) -> list[float]:
    """Element-wise sum of every process's ``values``."""
    if processes() == 1:
        return list(values)
    total = paddle.to_tensor(np.asarray(values, np.float64))
    paddle.distributed.all_reduce(total)
    return total.numpy().tolist()


def gather_rows(rows: np.ndarray) -> np.ndarray:
    """The rows of every process, those of process 0 first. Their numbers may differ, the rest of the shape may not."""
    if processes() == 1:
        return rows
    own = np.zeros(processes())
    own[rank()] = len(rows)
    counts = [int(count) for count in sum_over_processes(own)]
    if not any(counts):
        return rows
    padded = np.zeros((max(counts), *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    received: list[paddle.Tensor] = []
    paddle.distributed.all_gather(received, paddle.to_tensor(padded))
    return np.concatenate([part.numpy()[:count] for part, count in zip(received, counts)])


def largest_over_processes(value: int) -> int:
    """The largest of every process's ``value``, a whole number from 0 on."""
    if processes() == 1:
        return value
    largest = paddle.to_tensor(value, "int64")
    paddle.distributed.all_reduce(largest, op=paddle.distributed.ReduceOp.MAX)
    return int(largest)


def share_statistics(model: nn.Layer) -> None:
    """Give every process the running statistics of process 0, so that all hold the network that is saved."""
    if processes() > 1:
        for tensor in model.parameters():
            if tensor.stop_gradient:
                paddle.distributed.broadcast(tensor, src=0)
