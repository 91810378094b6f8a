"""Class weights of CELoss: PyTorch's formulas in float64, and weights made from the counts of the training images."""

import numpy as np
import paddle
import pytest
from helpers import refused
from runs import config

from ppreplk.data.classes import ClassCounts
from ppreplk.training import Trainer
from ppreplk.training.evaluate import evaluate_config
from ppreplk.training.losses import CELoss

WEIGHTS = [0.5, 1.0, 3.0, 0.2]


def reference(logits, target, label, epsilon):
    """Weighted cross entropy as PyTorch documents it: the mean over class indices is weighted, the other is not."""
    log_probability = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    smoothed = target * (1 - epsilon) + epsilon / target.shape[1]
    total = -(smoothed * log_probability * WEIGHTS).sum()
    return total / (len(logits) if label is None else np.take(WEIGHTS, label).sum())


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["indices", "one-hot", "mixed"])
def test_weighted_cross_entropy(kind, epsilon):
    rng = np.random.default_rng(0)
    logits, label = rng.standard_normal((6, 4)), rng.integers(4, size=6)
    target = rng.dirichlet(np.ones(4), 6) if kind == "mixed" else np.eye(4)[label]
    given = paddle.to_tensor(label if kind == "indices" else target.astype("float32"))
    received = CELoss(epsilon, class_weights=WEIGHTS)(paddle.to_tensor(logits.astype("float32")), given)
    expected = reference(logits, target, label if kind == "indices" else None, epsilon)
    assert float(received) == pytest.approx(expected, rel=1e-5)


def test_balanced_weights_are_those_of_scikit_learn():
    weight = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.repeat([0, 1, 2], [9, 4, 2])
    expected = weight.compute_class_weight("balanced", classes=np.arange(3), y=labels)
    criterion = CELoss(class_weights="balanced", class_counts=ClassCounts(np.bincount(labels)))
    np.testing.assert_allclose(criterion.class_weights.numpy(), expected, rtol=1e-6)
    assert criterion.class_weights.numpy()[labels].mean() == pytest.approx(1)


def few_images_of_class_2(project, left: int) -> None:
    lines = (project / "data/train.txt").read_text().splitlines()
    others = [line for line in lines if not line.endswith(" 2")]
    kept = [line for line in lines if line.endswith(" 2")][:left]
    (project / "data/train.txt").write_text("\n".join(others + kept) + "\n")


def test_a_training_counts_its_images(project, caplog):
    few_images_of_class_2(project, 2)
    trainer = Trainer(config("Loss.Train.0.CELoss.class_weights=balanced", "Global.epochs=1"))
    labels = [sample.label for sample in trainer.loader.dataset.samples]
    expected = [len(labels) / (3 * labels.count(k)) for k in range(3)]
    np.testing.assert_allclose(trainer.criterion.criteria["CELoss"].class_weights.numpy(), expected, rtol=1e-6)
    assert f"class_weights: {[round(weight, 4) for weight in expected]}" in caplog.text
    trainer.fit()


@pytest.mark.parametrize(
    "value, parts",
    [
        ("[1, 2]", ["Loss.Train[0].CELoss.class_weights", "expected 3 numbers, one for each class, got 2"]),
        ("[1, 2, 0]", ["expected positive numbers, got [1.0, 2.0, 0.0]"]),
        ("[]", ["expected positive numbers, got []"]),
    ],
)
def test_lists_that_do_not_fit(project, value, parts):
    with refused("training.bad-class-weights", *parts):
        Trainer(config(f"Loss.Train.0.CELoss.class_weights={value}"))


@pytest.mark.parametrize("value", ["[2]", "[1, 2]", "[1, 2, 3, 4]"])
def test_lists_that_do_not_fit_an_evaluation_are_refused_before_the_training(project, value):
    with refused("training.bad-class-weights", "Loss.Eval[0].CELoss.class_weights", "expected 3 numbers"):
        Trainer(config(f"Loss.Eval.0.CELoss.class_weights={value}"))
    with refused("training.bad-class-weights", "Loss.Eval[0].CELoss.class_weights", "expected 3 numbers"):
        evaluate_config(config(f"Loss.Eval.0.CELoss.class_weights={value}"))


def test_balanced_needs_images_of_every_class(project):
    few_images_of_class_2(project, 0)
    with refused("data.empty-class", "Loss.Train[0].CELoss", "data/train.txt", "no image of class 2"):
        Trainer(config("Loss.Train.0.CELoss.class_weights=balanced"))


def test_evaluation_takes_a_list_alone(project):
    Trainer(config("Global.epochs=1")).fit()
    best = "Global.pretrained_model=output/best_model"
    plain = evaluate_config(config(best))["loss"]
    assert evaluate_config(config(best, "Loss.Eval.0.CELoss.class_weights=[2, 2, 2]"))["loss"] == pytest.approx(plain)
    with refused("training.bad-class-weights", "Loss.Eval[0].CELoss.class_weights", "give a list here"):
        evaluate_config(config(best, "Loss.Eval.0.CELoss.class_weights=balanced"))
