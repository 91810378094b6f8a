"""Mixing images and labels within a batch, under PaddleClas's names, arguments and defaults.

A batch transform is called with images (N, C, H, W), labels (N,) and a ``numpy.random.Generator``. It returns images
and soft labels (N, K). ``lam`` is the share of an image's own pixels (CutMix) or intensity (mixup) that is left, and
the weight of its own label.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018; Yun et al., "CutMix: Regularization Strategy to Train
Strong Classifiers with Localizable Features", 2019.

Type hints here are evaluated at run time, so they keep to what Python 3.9 can evaluate.
"""

from typing import Any, Callable, Literal, Optional

import numpy as np

from ..config import Op, Ops, construct, find_op, typed
from ..utils.errors import UserError
from .argument_checks import check_fraction

BatchTransform = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


class MixupCutmixHybrid:
    """Mixup or CutMix of a batch with its own reverse, as in timm's batch mode.

    Args:
        mixup_alpha: mixup draws ``lam`` from Beta(alpha, alpha); 0 switches mixup off.
        cutmix_alpha: the same for CutMix.
        cutmix_minmax: PaddleClas's argument; refused.
        prob: probability that a batch is mixed at all.
        switch_prob: probability of CutMix where both are on.
        mode: one ``lam`` for the whole batch.
        correct_lam: weigh labels by the share of pixels that is left after CutMix's box was clipped at the border.
        label_smoothing: of the mixed labels; leave it 0 where the loss smooths already.
        num_classes: K; must equal ``Arch.class_num``.

    Raises:
        UserError: numbers out of their range, or another ``class_num``.
    """

    def __init__(
        self,
        mixup_alpha: float = 1.0,
        cutmix_alpha: float = 0.0,
        cutmix_minmax: Optional[list] = None,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: Literal["batch"] = "batch",
        correct_lam: bool = True,
        label_smoothing: float = 0.1,
        num_classes: int = 4,
        class_num: Any = None,
    ):
        if cutmix_minmax is not None:
            raise UserError(
                "cutmix_minmax is not served here: the recipes draw CutMix's lam from Beta(alpha, alpha)",
                code="data.not-served",
            )
        if mixup_alpha < 0 or cutmix_alpha < 0 or mixup_alpha + cutmix_alpha == 0:
            raise UserError(
                f"mixup_alpha and cutmix_alpha must not be negative nor both 0, got {mixup_alpha} and {cutmix_alpha}",
                code="data.bad-argument",
            )
        for name, value in {"prob": prob, "switch_prob": switch_prob, "label_smoothing": label_smoothing}.items():
            check_fraction(value, name)
        if class_num is not None and num_classes != class_num:
            raise UserError(
                f"num_classes is {num_classes}, but Arch.class_num is {class_num}; make them equal",
                code="data.class-count",
            )
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.prob = prob
        self.switch_prob = switch_prob
        self.correct_lam = correct_lam
        self.label_smoothing = label_smoothing
        self.num_classes = num_classes

    def __call__(
        self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        lam = 1.0
        if rng.random() < self.prob:
            if self._use_cutmix(rng):
                lam = rng.beta(self.cutmix_alpha, self.cutmix_alpha)
                images, corrected_lam = cutmix(images, images[::-1], lam, rng)
                lam = corrected_lam if self.correct_lam else lam
            else:
                lam = rng.beta(self.mixup_alpha, self.mixup_alpha)
                images = (images * lam + images[::-1] * (1.0 - lam)).astype(images.dtype, copy=False)
        target = smoothed_one_hot(labels, self.num_classes, self.label_smoothing)
        return images, (target * lam + target[::-1] * (1.0 - lam)).astype(np.float32)

    def _use_cutmix(self, rng: np.random.Generator) -> bool:
        if self.mixup_alpha and self.cutmix_alpha:
            return rng.random() < self.switch_prob
        return self.cutmix_alpha > 0


def cutmix(images: np.ndarray, others: np.ndarray, lam: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Paste one random box of ``others`` into ``images``, (N, C, H, W) both, at the same place in all of them.

    Args:
        lam: the box covers ``1 - lam`` of the area before it is clipped at the border.

    Returns:
        The mixed images, and ``lam`` corrected: the share of their own pixels that is left.
    """
    height, width = images.shape[2:]
    box_height, box_width = int(height * np.sqrt(1 - lam)), int(width * np.sqrt(1 - lam))
    row, column = rng.integers(height), rng.integers(width)
    rows = slice(max(row - box_height // 2, 0), min(row + box_height // 2, height))
    columns = slice(max(column - box_width // 2, 0), min(column + box_width // 2, width))
    mixed = images.copy()
    mixed[:, :, rows, columns] = others[:, :, rows, columns]
    return mixed, 1.0 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)


def smoothed_one_hot(labels: np.ndarray, num_classes: int, smoothing: float) -> np.ndarray:
    """(N,) class indices to (N, K): ``1 - smoothing + smoothing / K`` at the class, ``smoothing / K`` elsewhere.

    >>> smoothed_one_hot(np.array([0, 1]), num_classes=2, smoothing=0.5)
    array([[0.75, 0.25],
           [0.25, 0.75]])
    """
    target = np.full((len(labels), num_classes), smoothing / num_classes)
    target[np.arange(len(labels)), labels] += 1.0 - smoothing
    return target


class MixupOperator:
    """Mixup of a batch with its own permutation; ``lam`` is drawn from Beta(alpha, alpha)."""

    def __init__(self, class_num: int, alpha: float = 1.0):
        self.class_num = class_num
        self.alpha = _check_alpha(alpha)

    def __call__(
        self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        order, lam = rng.permutation(len(images)), rng.beta(self.alpha, self.alpha)
        mixed = (images * lam + images[order] * (1.0 - lam)).astype(images.dtype)
        return mixed, _mixed_labels(labels, order, lam, self.class_num)


class CutmixOperator:
    """CutMix of a batch with its own permutation; ``lam`` is drawn from Beta(alpha, alpha)."""

    def __init__(self, class_num: int, alpha: float = 0.2):
        self.class_num = class_num
        self.alpha = _check_alpha(alpha)

    def __call__(
        self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        order = rng.permutation(len(images))
        mixed, lam = cutmix(images, images[order], rng.beta(self.alpha, self.alpha), rng)
        return mixed, _mixed_labels(labels, order, lam, self.class_num)


def _check_alpha(alpha: float) -> float:
    if alpha <= 0:
        raise UserError(f"alpha must be positive, got {alpha}", code="data.bad-argument")
    return alpha


def _mixed_labels(labels: np.ndarray, order: np.ndarray, lam: float, class_num: int) -> np.ndarray:
    target = smoothed_one_hot(labels, class_num, 0.0)
    return (target * lam + target[order] * (1.0 - lam)).astype(np.float32)


class OpSampler:
    """One of several batch transforms, or none, chosen per batch by their ``prob``.

    Args:
        ops: {name: arguments with ``prob``}; the probabilities add up to at most 1.
        class_num: number of classes.

    Raises:
        UserError: an unknown transform, wrong arguments, or probabilities that do not fit.
    """

    rest = "ops"

    def __init__(self, ops: dict, class_num: int):
        self.class_num = class_num
        self.choices: list[BatchTransform] = []
        self.probabilities: list[float] = []
        for name, arguments in ops.items():
            op = Op(name, typed(arguments or {}, dict, name), name)
            self.probabilities.append(typed(op.arguments.pop("prob", 0.0), float, f"{name}.prob"))
            factory = find_op(op, SAMPLED, UNSERVED_BATCH_TRANSFORMS, "batch transform")
            self.choices.append(construct(factory, op.arguments, name, class_num=class_num))
        if min(self.probabilities, default=0.0) < 0 or sum(self.probabilities) > 1 + 1e-9:
            raise UserError(
                f"the probabilities must not be negative and add up to at most 1, got {self.probabilities}",
                code="data.bad-argument",
            )

    def __call__(
        self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        drawn = rng.random()
        for transform, probability in zip(self.choices, self.probabilities):
            if drawn < probability:
                return transform(images, labels, rng)
            drawn -= probability
        return images, smoothed_one_hot(labels, self.class_num, 0.0).astype(np.float32)


SAMPLED: dict[str, Callable[..., BatchTransform]] = {
    "MixupOperator": MixupOperator,
    "CutmixOperator": CutmixOperator,
}
BATCH_TRANSFORMS: dict[str, Callable[..., BatchTransform]] = {
    **SAMPLED,
    "OpSampler": OpSampler,
    "MixupCutmixHybrid": MixupCutmixHybrid,
}
UNSERVED_BATCH_TRANSFORMS = {"FmixOperator": "the recipes use mixup and CutMix"}


def build_batch_transforms(ops: Optional[Ops], class_num: int) -> list[BatchTransform]:
    """The batch transforms of ``batch_transform_ops``.

    Raises:
        UserError: an unknown transform, wrong arguments, or more than one transform.
    """
    if ops and len(ops) > 1:
        raise UserError(
            f"one batch transform can be given, found {len(ops)}", code="data.not-served", where=ops[1].where
        )
    return [
        construct(
            find_op(op, BATCH_TRANSFORMS, UNSERVED_BATCH_TRANSFORMS, "batch transform"),
            op.arguments,
            op.where,
            class_num=class_num,
        )
        for op in ops or ()
    ]
