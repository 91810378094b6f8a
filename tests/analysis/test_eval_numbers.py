"""Numbers of an evaluation against scikit-learn's and SciPy's."""

import numpy as np
import pytest

from ppreplk.analysis import eval_numbers as numbers

metrics = pytest.importorskip("sklearn.metrics")
calibration = pytest.importorskip("sklearn.calibration")
optimize = pytest.importorskip("scipy.optimize")
special = pytest.importorskip("scipy.special")


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels: few or many images and classes, some of them never true, some never predicted."""
    rng = np.random.default_rng(seed)
    classes, count = int(rng.integers(2, 40)), int(rng.integers(2, 400))
    labels = rng.choice(rng.choice(classes, max(1, int(classes * rng.uniform(0.3, 1.0))), replace=False), count)
    logits = rng.normal(0.0, rng.uniform(0.2, 6.0), (count, classes))
    logits[np.arange(count), labels] += rng.uniform(-2.0, 6.0)
    logits[:, rng.choice(classes, classes // 3, replace=False)] -= 30.0
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("seed", range(40))
def test_they_are_those_of_scikit_learn(seed):
    logits, labels = random_case(seed)
    answers = numbers.read_answers(logits, labels)
    every = np.arange(logits.shape[1])
    probabilities = special.softmax(logits.astype(np.float64), axis=1)
    predicted = probabilities.argmax(axis=1)
    assert (answers.predicted == predicted).all() and (answers.ranked == np.argsort(-logits)[:, :5]).all()
    np.testing.assert_allclose(answers.confidence, probabilities.max(axis=1), rtol=1e-12)
    np.testing.assert_allclose(answers.true_probability, probabilities[np.arange(len(labels)), labels], rtol=1e-9)

    found = numbers.per_class(answers)
    expected = metrics.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    for received, values in zip(found, expected):
        np.testing.assert_allclose(received, values, rtol=1e-12)
    for name, values in numbers.averages(found).items():
        expected = metrics.precision_recall_fscore_support(labels, predicted, average=name, zero_division=0)
        np.testing.assert_allclose(list(values.values()), expected[:3], rtol=1e-12)
    accuracy = metrics.recall_score(labels, predicted, labels=np.unique(labels), average="macro")
    assert numbers.balanced_accuracy(found) == pytest.approx(accuracy, rel=1e-12)

    matrix = metrics.confusion_matrix(labels, predicted, labels=every)
    pairs = numbers.confusions(answers)
    assert (pairs.matrix(every) == matrix).all()
    assert pairs.wrong().images.sum() == matrix.sum() - np.trace(matrix)
    some = every[::-1][: len(every) // 2]
    assert (pairs.matrix(some) == matrix[np.ix_(some, some)]).all()
    for k in (1, 5):
        hits = np.mean([label in row[:k] for label, row in zip(labels, np.argsort(-probabilities, axis=1))])
        assert numbers.top_k(answers, k) == pytest.approx(hits)
        if k < len(every) and len(every) > 2:
            expected = metrics.top_k_accuracy_score(labels, logits, k=k, labels=every)
            assert numbers.top_k(answers, k) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_calibration_is_that_of_scikit_learn_and_scipy(seed):
    logits, labels = random_case(seed)
    answers = numbers.read_answers(logits, labels)
    bins = numbers.reliability(answers.confidence, answers.right)
    accuracy, confidence = calibration.calibration_curve(answers.right, answers.confidence, n_bins=numbers.BINS)
    filled = bins.images > 0
    np.testing.assert_allclose(bins.accuracy[filled], accuracy, rtol=1e-12)
    np.testing.assert_allclose(bins.confidence[filled], confidence, rtol=1e-12)
    error = sum(bins.images[filled] * np.abs(accuracy - confidence)) / len(labels)
    assert bins.error() == pytest.approx(error, rel=1e-12)

    def likelihood(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        return -special.log_softmax(scaled, axis=1)[np.arange(len(labels)), labels].mean()

    if answers.true_probability.min() > 1e-15:  # scikit-learn takes smaller ones for that
        probabilities = special.softmax(logits.astype(np.float64), axis=1)
        expected = metrics.log_loss(labels, probabilities, labels=np.arange(logits.shape[1]))
        assert likelihood(0.0) == pytest.approx(expected, rel=1e-9)
    assert numbers.negative_log_likelihood(logits, labels) == pytest.approx(likelihood(0.0), rel=1e-9)
    fit = numbers.fit_temperature(logits, labels)
    least = optimize.minimize_scalar(likelihood, bounds=np.log([1e-3, 1e3]), method="bounded", options={"xatol": 1e-9})
    assert numbers.negative_log_likelihood(logits, labels, fit.temperature) <= least.fun + 1e-9
    if fit.inside:
        assert np.log(fit.temperature) == pytest.approx(least.x, abs=1e-4)
    scaled = numbers.confidences(logits, fit.temperature)
    expected = special.softmax(logits.astype(np.float64) / fit.temperature, axis=1).max(axis=1)
    np.testing.assert_allclose(scaled, expected, rtol=1e-9)


def test_many_images_are_computed_in_parts(monkeypatch):
    logits, labels = random_case(3)
    whole, fit = numbers.read_answers(logits, labels), numbers.fit_temperature(logits, labels)
    monkeypatch.setattr(numbers, "AT_ONCE", 7 * logits.shape[1])
    parts = numbers.read_answers(logits, labels)
    for first, second in zip(whole[1:], parts[1:]):
        assert (first == second).all()
    assert numbers.fit_temperature(logits, labels).temperature == pytest.approx(fit.temperature, rel=1e-9)


def test_a_temperature_without_a_minimum_is_an_end_of_the_range():
    right, wrong = np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([[1.0, 2.0], [3.0, 0.0]])
    assert numbers.fit_temperature(right, np.array([0, 1])) == (numbers.COLDEST, False)
    assert numbers.fit_temperature(wrong, np.array([0, 1])) == (numbers.HOTTEST, False)
    assert numbers.fit_temperature(np.zeros((2, 3)), np.array([0, 1])) == (numbers.HOTTEST, False)  # all are the same


def test_equal_logits_are_ranked_by_the_number_of_the_class():
    answers = numbers.read_answers(np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]]), np.array([1, 2]))
    assert answers.ranked.tolist() == [[0, 1, 2], [1, 2, 0]] and answers.rank.tolist() == [2, 2]


def test_outputs_that_are_not_finite_are_found():
    logits = np.zeros((5, 3), np.float32)
    logits[1, 2], logits[4, 0] = np.nan, np.inf
    assert numbers.not_finite(logits).tolist() == [1, 4]


def test_the_most_confused_classes_and_the_surest_errors():
    labels = np.array([0, 0, 1, 2, 3, 3, 3])
    logits = np.full((7, 5), -3.0)
    logits[range(7), [0, 1, 1, 2, 4, 4, 3]] = [1.0, 2.0, 3.0, 4.0, 1.0, 5.0, 2.0]
    answers = numbers.read_answers(logits, labels)
    found = numbers.confusions(answers)
    assert numbers.most_confused(found, 5, 2).tolist() == [3, 4]
    assert numbers.most_confused(found, 5, 9).tolist() == [0, 1, 2, 3, 4]
    assert numbers.worst_errors(answers, 2).tolist() == [5, 1]
    assert [values.tolist() for values in found.wrong()] == [[3, 0], [4, 1], [2, 1]]
