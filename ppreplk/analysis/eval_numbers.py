"""What the outputs of a classifier say about it, as numbers: pure NumPy, in float64.

The definitions are scikit-learn's, to which tests compare them. A precision, recall or F1 whose denominator is zero is
zero. Where two logits are equal, the class with the smaller number comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BINS = 15  # of confidence, of equal width, as in "On Calibration of Modern Neural Networks" (Guo et al., 2017)
RANKED = 5  # classes that are kept for each image
AT_ONCE = 2**22  # logits that are computed at once, which bounds the memory
COLDEST, HOTTEST = 1e-3, 1e3  # between them a temperature is looked for


class Answers(NamedTuple):
    """What a network says about N images of K classes; k is 5, or K if that is less.

    Args:
        classes: K.
        labels: (N,) the true classes.
        ranked: (N, k) the likeliest classes, likeliest first.
        probabilities: (N, k) theirs.
        true_probability: (N,) that of the true class.
        rank: (N,) of the true class, from 1.
    """

    classes: int
    labels: np.ndarray
    ranked: np.ndarray
    probabilities: np.ndarray
    true_probability: np.ndarray
    rank: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        return self.ranked[:, 0]

    @property
    def confidence(self) -> np.ndarray:
        return self.probabilities[:, 0]

    @property
    def right(self) -> np.ndarray:
        return self.predicted == self.labels


def not_finite(logits: np.ndarray) -> np.ndarray:
    """Numbers of the rows of (N, K) logits that cannot be ranked."""
    return np.concatenate([start + np.flatnonzero(~np.isfinite(part).all(axis=1)) for start, part in _parts(logits)])


def read_answers(logits: np.ndarray, labels: np.ndarray) -> Answers:
    """Rank the classes of finite (N, K) logits for each image with a label in (N,)."""
    top = min(RANKED, logits.shape[1])
    ranked, probabilities, of_true, rank = [], [], [], []
    for start, part in _parts(logits):
        true = labels[start : start + len(part)]
        values = np.exp(_log_softmax(part))
        order = np.argsort(-part, axis=1, kind="stable")
        ranked.append(order[:, :top])
        probabilities.append(np.take_along_axis(values, ranked[-1], axis=1))
        of_true.append(np.take_along_axis(values, true[:, None], axis=1)[:, 0])
        rank.append(1 + np.argmax(order == true[:, None], axis=1))
    joined = (np.concatenate(parts) for parts in (ranked, probabilities, of_true, rank))
    return Answers(logits.shape[1], labels, *joined)


def _parts(logits: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The rows in float64, some at once, with the number of the first."""
    rows = max(1, AT_ONCE // logits.shape[1])
    for start in range(0, len(logits), rows):
        yield start, logits[start : start + rows].astype(np.float64)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


# ----------------------------------------------------------------------------------------------------------------------
# Classes


class PerClass(NamedTuple):
    """(K,) for each class: precision, recall, F1, images of it (support) and images that were taken for it."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    predictions: np.ndarray


def per_class(answers: Answers) -> PerClass:
    """Precision, recall and F1 of each class."""
    support = np.bincount(answers.labels, minlength=answers.classes)
    predictions = np.bincount(answers.predicted, minlength=answers.classes)
    hits = np.bincount(answers.labels[answers.right], minlength=answers.classes)
    precision, recall = _ratio(hits, predictions), _ratio(hits, support)
    return PerClass(precision, recall, _ratio(2 * hits, support + predictions), support, predictions)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), 0.0)


def averages(numbers: PerClass) -> dict[str, dict[str, float]]:
    """{"macro" or "weighted": {"precision", "recall", "f1"}}.

    ``macro`` is the mean over the classes that occur, among the labels or the predictions. ``weighted`` weights each
    class by its images.
    """
    occurring = (numbers.support > 0) | (numbers.predictions > 0)
    values = {"precision": numbers.precision, "recall": numbers.recall, "f1": numbers.f1}
    return {
        "macro": {name: float(value[occurring].mean()) for name, value in values.items()},
        "weighted": {name: float(np.average(value, weights=numbers.support)) for name, value in values.items()},
    }


def balanced_accuracy(numbers: PerClass) -> float:
    """Mean recall of the classes that have images."""
    return float(numbers.recall[numbers.support > 0].mean())


def top_k(answers: Answers, k: int) -> float:
    """Share of the images whose class is among the k likeliest ones."""
    return float((answers.rank <= k).mean())


class Confusions(NamedTuple):
    """(M,) each: the pairs of true and predicted class that occur, right ones too, and the images of each pair."""

    true: np.ndarray
    predicted: np.ndarray
    images: np.ndarray

    def wrong(self) -> Confusions:
        """The pairs of different classes, the most frequent first."""
        kept = np.flatnonzero(self.true != self.predicted)
        kept = kept[np.argsort(-self.images[kept], kind="stable")]
        return Confusions(*(values[kept] for values in self))

    def matrix(self, classes: np.ndarray) -> np.ndarray:
        """(C, C) counts, a row for each true and a column for each predicted one of the classes (C,), as they come."""
        place = {int(number): index for index, number in enumerate(classes)}
        matrix = np.zeros((len(classes), len(classes)), np.int64)
        for true, predicted, count in zip(*(values.tolist() for values in self)):
            if true in place and predicted in place:
                matrix[place[true], place[predicted]] = count
        return matrix


def confusions(answers: Answers) -> Confusions:
    """Count the pairs of true and predicted class."""
    pairs, counts = np.unique(answers.labels * answers.classes + answers.predicted, return_counts=True)
    return Confusions(pairs // answers.classes, pairs % answers.classes, counts)


def most_confused(found: Confusions, classes: int, limit: int) -> np.ndarray:
    """Numbers of the classes with the most errors, of them or to them, in ascending order; at most ``limit``."""
    wrong = found.wrong()
    errors = sum(np.bincount(side, wrong.images, minlength=classes) for side in (wrong.true, wrong.predicted))
    return np.sort(np.argsort(-np.asarray(errors), kind="stable")[:limit])


def worst_errors(answers: Answers, limit: int) -> np.ndarray:
    """Indices of the wrong images that the network was surest of, the surest first."""
    wrong = np.flatnonzero(~answers.right)
    return wrong[np.argsort(-answers.confidence[wrong], kind="stable")][:limit]


# ----------------------------------------------------------------------------------------------------------------------
# Calibration


class Bins(NamedTuple):
    """(BINS,) each: images whose confidence lies in (i / BINS, (i + 1) / BINS], their mean confidence and accuracy.

    Both are zero where there are no images. The first bin has confidence 0, too.
    """

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    def error(self) -> float:
        """The expected calibration error: the mean distance of accuracy and confidence, weighted by the images."""
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.images))


def reliability(confidence: np.ndarray, right: np.ndarray) -> Bins:
    """Sort (N,) confidences into bins of equal width, with whether (N,) the predictions are right."""
    place = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    sums = (np.bincount(place, values, minlength=BINS) for values in (confidence, right.astype(np.float64)))
    return Bins(count, *(_ratio(total, count) for total in sums))


def confidences(logits: np.ndarray, temperature: float) -> np.ndarray:
    """(N,) the largest probability of softmax(logits / temperature)."""
    return np.concatenate([np.exp(_log_softmax(part / temperature).max(axis=1)) for _, part in _parts(logits)])


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Mean of -log softmax(logits / temperature) at the labels."""
    total = 0.0
    for start, part in _parts(logits):
        true = labels[start : start + len(part), None]
        total -= np.take_along_axis(_log_softmax(part / temperature), true, axis=1).sum()
    return float(total / len(logits))


class Fit(NamedTuple):
    """A temperature, and whether it is where the likelihood is largest or at an end of the range that was searched."""

    temperature: float
    inside: bool


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> Fit:
    """The temperature that minimises :func:`negative_log_likelihood`, between 0.001 and 1000.

    In its inverse that is a convex function. Newton's steps look for the zero of its slope; where one would leave the
    bracket around it, the bracket is halved instead.
    """
    low, high = 1 / HOTTEST, 1 / COLDEST
    if _slope(logits, labels, low)[0] >= 0:
        return Fit(HOTTEST, False)
    if _slope(logits, labels, high)[0] <= 0:
        return Fit(COLDEST, False)
    inverse = 1.0
    for _ in range(200):
        slope, curvature = _slope(logits, labels, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else low
        following = step if low < step < high else np.sqrt(low * high)
        if abs(following - inverse) <= 1e-10 * inverse:
            break
        inverse = following
    return Fit(float(1 / inverse), True)


def _slope(logits: np.ndarray, labels: np.ndarray, inverse: float) -> tuple[float, float]:
    """First and second derivative of the negative log-likelihood in the inverse temperature."""
    slope = curvature = 0.0
    for start, part in _parts(logits):
        shifted = part - part.max(axis=1, keepdims=True)
        weights = np.exp(inverse * shifted)
        weights /= weights.sum(axis=1, keepdims=True)
        mean = (weights * shifted).sum(axis=1)
        true = np.take_along_axis(shifted, labels[start : start + len(part), None], axis=1)[:, 0]
        slope += (mean - true).sum()
        curvature += (weights * (shifted - mean[:, None]) ** 2).sum()
    return float(slope / len(logits)), float(curvature / len(logits))
