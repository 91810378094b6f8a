"""Metrics under PaddleClas's names."""

from collections.abc import Mapping, Sequence
from typing import Callable, Optional, Union

import paddle

from ..config import Ops, construct, find_op
from ..utils.errors import UserError


class TopkAcc:
    """Count the samples whose class is among the k largest logits, for each k of ``topk``.

    A call takes (N, K) logits and (N,) class indices and returns {"top1": number of hits, ...}. Counts of batches
    of different sizes can be added up. A k beyond K counts as K.

    Raises:
        UserError: a k below 1.

    >>> logits = paddle.to_tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    >>> TopkAcc([1, 2])(logits, paddle.to_tensor([0, 1]))
    {'top1': 1, 'top2': 2}
    """

    def __init__(self, topk: Union[int, Sequence[int]] = (1, 5)):
        self.topk = [topk] if isinstance(topk, int) else list(topk)
        if not self.topk or min(self.topk) < 1:
            raise UserError(f"topk must be positive, got {topk}", code="training.bad-value")

    def __call__(self, logits: paddle.Tensor, label: paddle.Tensor) -> dict[str, float]:
        return dict(zip(self.names, self.hits(logits, label).tolist()))

    @property
    def names(self) -> list[str]:
        """``top1`` and the like, in the order of ``topk``."""
        return [f"top{k}" for k in self.topk]

    def hits(self, logits: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        """The numbers of hits, int64 in the order of ``topk``, left on the device."""
        max_k = min(max(self.topk), logits.shape[-1])
        _, ranked = logits.topk(max_k)
        hits = (ranked == label.unsqueeze(-1)).astype("int64").sum(axis=0).cumsum()
        return paddle.stack([hits[min(k, max_k) - 1] for k in self.topk])


@paddle.no_grad()
def batch_values(
    logits: paddle.Tensor, label: paddle.Tensor, metric: Optional[TopkAcc], losses: Mapping[str, paddle.Tensor]
) -> tuple[list[str], paddle.Tensor]:
    """Names and values (V,) float32 of the hits and the losses of a batch, left on the device.

    Args:
        logits, label: (N, K) and (N,).
        metric: what counts hits, or None.
        losses: {name: mean over the batch}.
    """
    names, values = list(losses), list(losses.values())
    parts = [paddle.stack(values).astype("float32")] if values else []
    if metric is not None:  # hits are whole numbers, exact in float32
        names, parts = [*metric.names, *names], [metric.hits(logits, label).astype("float32"), *parts]
    return names, paddle.concat(parts)


METRICS: dict[str, Callable] = {"TopkAcc": TopkAcc}


def build_metric(ops: Ops) -> Optional[TopkAcc]:
    """Build the metric of ``Metric.Train`` or ``Metric.Eval``; None for an empty list.

    Raises:
        UserError: unknown metric or arguments, or more than one.
    """
    if not ops:
        return None
    if len(ops) > 1:
        raise UserError(f"one metric can be given, found {len(ops)}", code="training.too-many", where=ops[1].where)
    return construct(find_op(ops[0], METRICS, {}, "metric"), ops[0].arguments, ops[0].where)
