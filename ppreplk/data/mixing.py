"""Mixing images and labels within a batch, under PaddleClas's names, arguments and defaults.

A batch transform is called with images (N, C, H, W), labels (N,) or (N, K), and a generator, and returns
images and soft labels (N, K).
"""

from typing import Any, Callable, Literal, Optional

import numpy as np

from ..config import Op, Ops, construct, find_op, typed
from ..utils.errors import UserError

BatchTransform = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


class MixupCutmixHybrid:
    """Mixup or CutMix of a batch with itself reversed, as in timm's batch mode.

    Args:
        mixup_alpha: mixup draws its share from Beta(alpha, alpha); 0 switches it off.
        cutmix_alpha: the same for CutMix.
        prob: probability that a batch is mixed at all.
        switch_prob: probability of CutMix where both are on.
        mode: one share for the whole batch.
        correct_lam: use the share of pixels that CutMix really kept after clipping its box.
        label_smoothing: of the mixed labels; leave it 0 where the loss smooths already.
        num_classes: K; must equal ``Arch.class_num``.
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
            raise UserError("cutmix_minmax is not served here: the recipes draw CutMix's share from Beta(alpha, alpha)")
        if mixup_alpha < 0 or cutmix_alpha < 0 or mixup_alpha + cutmix_alpha == 0:
            raise UserError(
                f"mixup_alpha and cutmix_alpha must not be negative nor both 0, got {mixup_alpha} and {cutmix_alpha}"
            )
        for name, value in {"prob": prob, "switch_prob": switch_prob, "label_smoothing": label_smoothing}.items():
            if not 0.0 <= value <= 1.0:
                raise UserError(f"{name} must lie between 0 and 1, got {value}")
        if class_num is not None and num_classes != class_num:
            raise UserError(f"num_classes is {num_classes}, but Arch.class_num is {class_num}; make them equal")
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
        kept = 1.0
        if rng.random() < self.prob:
            if self._draw_cutmix(rng):
                kept = rng.beta(self.cutmix_alpha, self.cutmix_alpha)
                images, really_kept = cutmix(images, images[::-1], kept, rng)
                kept = really_kept if self.correct_lam else kept
            else:
                kept = rng.beta(self.mixup_alpha, self.mixup_alpha)
                images = (images * kept + images[::-1] * (1.0 - kept)).astype(images.dtype, copy=False)
        target = smoothed_one_hot(labels, self.num_classes, self.label_smoothing)
        return images, (target * kept + target[::-1] * (1.0 - kept)).astype(np.float32)

    def _draw_cutmix(self, rng: np.random.Generator) -> bool:
        if self.mixup_alpha and self.cutmix_alpha:
            return rng.random() < self.switch_prob
        return self.cutmix_alpha > 0


def cutmix(images: np.ndarray, other: np.ndarray, kept: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Paste one random box of ``other`` into all ``images``, (N, C, H, W) both.

    The box covers a share of ``1 - kept`` before it is clipped at the border.

    Returns:
        The images, and the share of their own pixels that is left.
    """
    height, width = images.shape[2:]
    box_height, box_width = int(height * np.sqrt(1 - kept)), int(width * np.sqrt(1 - kept))
    row, column = rng.integers(height), rng.integers(width)
    rows = slice(max(row - box_height // 2, 0), min(row + box_height // 2, height))
    columns = slice(max(column - box_width // 2, 0), min(column + box_width // 2, width))
    mixed = images.copy()
    mixed[:, :, rows, columns] = other[:, :, rows, columns]
    return mixed, 1.0 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)


def smoothed_one_hot(labels: np.ndarray, classes: int, smoothing: float) -> np.ndarray:
    """(N,) class indices to (N, K): ``1 - smoothing + smoothing / K`` at the class, ``smoothing / K`` elsewhere."""
    target = np.full((len(labels), classes), smoothing / classes)
    target[np.arange(len(labels)), labels] += 1.0 - smoothing
    return target


class MixupOperator:
    """Mixup of a batch with itself in random order; the share is drawn from Beta(alpha, alpha)."""

    def __init__(self, class_num: int, alpha: float = 1.0):
        self.class_num = class_num
        self.alpha = _positive(alpha)

    def __call__(
        self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        other, kept = rng.permutation(len(images)), rng.beta(self.alpha, self.alpha)
        mixed = (images * kept + images[other] * (1.0 - kept)).astype(images.dtype)
        return mixed, _mixed_labels(labels, other, kept, self.class_num)


class CutmixOperator:
    """CutMix of a batch with itself in random order; the share is drawn from Beta(alpha, alpha)."""

    def __init__(self, class_num: int, alpha: float = 0.2):
        self.class_num = class_num
        self.alpha = _positive(alpha)

    def __call__(
        self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        other = rng.permutation(len(images))
        mixed, kept = cutmix(images, images[other], rng.beta(self.alpha, self.alpha), rng)
        return mixed, _mixed_labels(labels, other, kept, self.class_num)


def _positive(alpha: float) -> float:
    if alpha <= 0:
        raise UserError(f"alpha must be positive, got {alpha}")
    return alpha


def _mixed_labels(labels: np.ndarray, other: np.ndarray, kept: float, class_num: int) -> np.ndarray:
    target = smoothed_one_hot(labels, class_num, 0.0)
    return (target * kept + target[other] * (1.0 - kept)).astype(np.float32)


class OpSampler:
    """One of several batch transforms, or none, chosen per batch by their ``prob``.

    Args:
        ops: {name: arguments with ``prob``}; the probabilities add up to at most 1.
        class_num: number of classes.
    """

    rest = "ops"

    def __init__(self, ops: dict, class_num: int):
        self.class_num = class_num
        self.choices: list[BatchTransform] = []
        self.probabilities: list[float] = []
        for name, arguments in ops.items():
            op = Op(name, dict(arguments or {}), name)
            self.probabilities.append(typed(op.arguments.pop("prob", 0.0), float, f"{name}.prob"))
            factory = find_op(op, SAMPLED, UNSERVED_BATCH_TRANSFORMS, "batch transform")
            self.choices.append(construct(factory, op.arguments, name, class_num=class_num))
        if min(self.probabilities, default=0.0) < 0 or sum(self.probabilities) > 1 + 1e-9:
            raise UserError(f"the probabilities must not be negative and add up to at most 1, got {self.probabilities}")

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
        UserError: unknown ones, wrong arguments, or more than one.
    """
    if ops and len(ops) > 1:
        raise UserError(f"{ops[1].where}: one batch transform can be given, found {len(ops)}")
    return [
        construct(
            find_op(op, BATCH_TRANSFORMS, UNSERVED_BATCH_TRANSFORMS, "batch transform"),
            op.arguments,
            op.where,
            class_num=class_num,
        )
        for op in ops or ()
    ]
