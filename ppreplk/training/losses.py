"""Criteria under PaddleClas's names."""

from typing import Callable, Optional

import paddle
import paddle.nn.functional as F
from paddle import nn

from ..config import Ops, construct, find_op
from ..utils.errors import UserError


class CELoss(nn.Layer):
    """Cross entropy of (N, K) logits against (N,) class indices or (N, K) soft labels, averaged over N.

    Soft labels are used as they are. PaddleClas applies a softmax to them unless ``epsilon`` is set.

    Args:
        epsilon: label smoothing: the target becomes ``(1 - epsilon) * target + epsilon / K``.
        weight: factor in the sum of all criteria.

    Raises:
        UserError: an epsilon outside [0, 1).

    >>> logits, labels = paddle.zeros([2, 4]), paddle.to_tensor([0, 3])
    >>> round(float(CELoss()(logits, labels)), 4)  # the logarithm of 4
    1.3863
    """

    def __init__(self, epsilon: Optional[float] = None, weight: float = 1.0):
        super().__init__()
        if epsilon is not None and not 0.0 <= epsilon < 1.0:
            raise UserError(f"epsilon must be at least 0 and below 1, got {epsilon}", code="training.bad-value")
        self.epsilon = epsilon or 0.0
        self.weight = weight

    def forward(self, logits: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        if len(label.shape) == 1 and not self.epsilon:
            return F.cross_entropy(logits, label)
        classes = logits.shape[-1]
        target = F.one_hot(label, classes) if len(label.shape) == 1 else label
        target = target * (1.0 - self.epsilon) + self.epsilon / classes
        return -(target * F.log_softmax(logits, axis=-1)).sum(axis=-1).mean()


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


def build_loss(ops: Ops) -> CombinedLoss:
    """Build the criteria of ``Loss.Train`` or ``Loss.Eval``.

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
        criteria[op.name] = construct(find_op(op, LOSSES, UNSERVED_LOSSES, "loss"), op.arguments, op.where)
    return CombinedLoss(criteria)
