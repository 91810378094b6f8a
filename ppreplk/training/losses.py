"""Criteria under PaddleClas's names.

Type hints here are evaluated at run time, so they keep to what Python 3.9 can evaluate.
"""

import logging
import math
from collections.abc import Sequence
from typing import Callable, Literal, Optional, Union

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ..config import Ops, construct, find_op
from ..data.classes import ClassCounts
from ..utils.errors import UserError

logger = logging.getLogger(__name__)


class CELoss(nn.Layer):
    """Cross entropy of (N, K) logits against (N,) class indices or (N, K) soft labels, averaged over N.

    Soft labels are used as they are. PaddleClas applies a softmax to them unless ``epsilon`` is set.

    With class weights ``w``, an image's loss is ``sum over k of w[k] * target[k] * -log(p[k])``. For class indices
    ``y``, the losses of a batch are summed and divided by the sum of ``w[y]``. For soft labels they are averaged over
    N. Both are what PyTorch's ``cross_entropy`` does.

    Args:
        epsilon: label smoothing: the target becomes ``(1 - epsilon) * target + epsilon / K``.
        weight: factor in the sum of all criteria.
        class_weights: a positive number for each class; or ``balanced``, which is ``n / (K * n_k)`` for class k with
            ``n_k`` of the ``n`` training images. Their mean over the training images is then 1. PaddleClas has no such
            argument.
        class_counts: training images of each class, for ``balanced``.
        class_num: K, to which a list is compared where it is known.

    Raises:
        UserError: an epsilon outside [0, 1), or class weights that cannot be made or are not positive.

    >>> logits, labels = paddle.zeros([2, 4]), paddle.to_tensor([0, 3])
    >>> round(float(CELoss()(logits, labels)), 4)  # the logarithm of 4
    1.3863
    """

    def __init__(
        self,
        epsilon: Optional[float] = None,
        weight: float = 1.0,
        class_weights: Union[Literal["balanced"], Sequence[float], None] = None,
        class_counts: Optional[ClassCounts] = None,
        class_num: Optional[int] = None,
    ):
        super().__init__()
        if epsilon is not None and not 0.0 <= epsilon < 1.0:
            raise UserError(f"epsilon must be at least 0 and below 1, got {epsilon}", code="training.bad-value")
        self.epsilon = epsilon or 0.0
        self.weight = weight
        self.class_weights = None
        if class_weights is not None:
            self.class_weights = paddle.to_tensor(_class_weights(class_weights, class_counts, class_num), "float32")

    def forward(self, logits: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        has_indices = len(label.shape) == 1
        if has_indices and not self.epsilon and self.class_weights is None:
            return F.cross_entropy(logits, label)
        classes = logits.shape[-1]
        target = F.one_hot(label, classes) if has_indices else label
        target = target * (1.0 - self.epsilon) + self.epsilon / classes
        if self.class_weights is not None:
            target = target * self.class_weights
        losses = -(target * F.log_softmax(logits, axis=-1)).sum(axis=-1)
        if has_indices and self.class_weights is not None:
            return losses.sum() / self.class_weights[label].sum()
        return losses.mean()


def _class_weights(
    given: Union[str, Sequence[float]], counts: Optional[ClassCounts], class_num: Optional[int]
) -> np.ndarray:
    """(K,) float64."""
    if given == "balanced":
        if counts is None:
            raise _bad_class_weights("balanced counts the training images, so it is for Loss.Train; give a list here")
        weights = counts.balanced()
        logger.info("class_weights: %s", [round(float(weight), 4) for weight in weights])
        return weights
    weights = np.asarray(given, np.float64)
    if not len(weights) or not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise _bad_class_weights(f"expected positive numbers, got {list(given)}")
    if class_num is not None and len(weights) != class_num:
        raise _bad_class_weights(f"expected {class_num} numbers, one for each class, got {len(weights)}")
    return weights


def _bad_class_weights(message: str) -> UserError:
    return UserError(message, code="training.bad-class-weights", where="class_weights")


class CombinedLoss(nn.Layer):
    """Weighted sum of criteria: (N, K) logits and labels to {criterion: weighted value, "loss": their sum}."""

    def __init__(self, criteria: dict[str, nn.Layer]):
        super().__init__()
        self.criteria = nn.LayerDict(criteria)

    def forward(self, logits: paddle.Tensor, label: paddle.Tensor) -> dict[str, paddle.Tensor]:
        parts = {name: criterion(logits, label) * criterion.weight for name, criterion in self.criteria.items()}
        return {**parts, "loss": paddle.add_n(list(parts.values()))}


LOSSES: dict[str, Callable[..., nn.Layer]] = {"CELoss": CELoss}
UNSERVED_LOSSES = {"MixCELoss": "PaddleClas replaced it by CELoss"}


def build_loss(ops: Ops, class_num: Optional[int] = None, class_counts: Optional[ClassCounts] = None) -> CombinedLoss:
    """Build the criteria of ``Loss.Train`` or ``Loss.Eval``.

    Args:
        ops: the criteria.
        class_num: number of classes, where it is known.
        class_counts: training images of each class, where there are training images.

    Raises:
        UserError: no criterion, an unknown one, wrong arguments, or the same one twice.
    """
    if not ops:
        raise UserError(
            "at least one criterion is needed, for example CELoss", code="training.needs-loss", where="Loss"
        )
    criteria: dict[str, nn.Layer] = {}
    for op in ops:
        if op.name in criteria:
            raise UserError(f"{op.name} is listed twice", code="training.too-many", where=op.where)
        criteria[op.name] = construct(
            find_op(op, LOSSES, UNSERVED_LOSSES, "loss"),
            op.arguments,
            op.where,
            class_num=class_num,
            class_counts=class_counts,
        )
    return CombinedLoss(criteria)
