"""Schedules, decay groups and losses against values worked out from their definitions."""

import math

import numpy as np
import paddle
import pytest
from helpers import random_images, refused, small_network

from ppreplk.training.losses import CELoss, CombinedLoss
from ppreplk.training.metrics import TopkAcc
from ppreplk.training.optimizers import AdamW, Momentum
from ppreplk.training.schedules import ConstLR, Cosine, Linear, MultiStepDecay


def test_cosine_with_warmup():
    schedule = Cosine(4e-3, epochs=10, per_epoch=5, warmup_epoch=2, warmup_start_lr=1e-3, eta_min=1e-6)
    assert schedule(0) == 1e-3
    assert schedule(5) == pytest.approx(1e-3 + 3e-3 * 5 / 10)
    assert schedule(10) == pytest.approx(4e-3)
    assert schedule(30) == pytest.approx(1e-6 + (4e-3 - 1e-6) * 0.5)
    assert schedule(49) == pytest.approx(1e-6 + (4e-3 - 1e-6) * 0.5 * (1 + math.cos(math.pi * 39 / 40)))
    assert schedule(50) == pytest.approx(1e-6)


def test_linear_and_constant():
    linear = Linear(0.1, epochs=4, per_epoch=10, warmup_epoch=1, end_lr=0.02, power=2.0)
    assert [linear(step) for step in (0, 5, 10, 25, 40)] == pytest.approx([0, 0.05, 0.1, 0.02 + 0.08 / 4, 0.02])
    constant = ConstLR(0.3, epochs=4, per_epoch=10, warmup_epoch=0.5)
    assert [constant(step) for step in (0, 1, 5, 39)] == pytest.approx([0, 0.06, 0.3, 0.3])


def test_multi_step_counts_milestones_from_the_end_of_the_warmup():
    schedule = MultiStepDecay(0.1, epochs=10, per_epoch=4, milestones=[2, 5], gamma=0.5, warmup_epoch=1)
    assert [schedule(step) for step in (0, 2, 4, 11, 12, 23, 24)] == pytest.approx(
        [0, 0.05, 0.1, 0.1, 0.05, 0.05, 0.025]
    )


@pytest.mark.parametrize("kind", ["clip_norm", "clip_global_norm"])
def test_clipping_per_tensor_and_together(two_gradients, kind):
    model, parameters, gradients = two_gradients
    start = {name: p.numpy().astype(np.float64) for name, p in parameters.items()}
    ids, bound = model.layer_ids(), 0.7
    total = math.sqrt(sum((value**2).sum() for value in gradients[0].values()))
    take_steps(Momentum(0.1, model, momentum=0.0, **{kind: bound}), parameters, gradients[:1])
    for name, value in start.items():
        gradient = gradients[0][name]
        norm = total if kind == "clip_global_norm" else math.sqrt((gradient**2).sum())
        lr = 0.1 * 0.5 ** (max(ids.values()) - ids[name])
        expected = value - lr * gradient * min(1.0, bound / norm)
        np.testing.assert_allclose(parameters[name].numpy(), expected, rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(
    "build, parts",
    [
        (lambda model: AdamW(0.1, model, beta2=1.0), ["beta2", "1.0"]),
        (lambda model: AdamW(0.1, model, epsilon=0.0), ["epsilon", "0.0"]),
        (lambda model: AdamW(0.1, model, clip_norm=-1.0), ["clip_norm", "-1.0"]),
        (lambda model: AdamW(0.1, model, head_lr_mult=0.0), ["head_lr_mult", "0.0"]),
        (lambda model: Momentum(0.1, model, momentum=1.5), ["momentum", "1.5"]),
        (lambda model: Cosine(-1.0, epochs=2, per_epoch=3), ["learning_rate", "-1.0"]),
        (lambda model: Cosine(1.0, epochs=2, per_epoch=3, warmup_epoch=3), ["warmup_epoch", "(2)", "3"]),
        (lambda model: Linear(1.0, epochs=2, per_epoch=3, power=0.0), ["power", "0.0"]),
        (lambda model: MultiStepDecay(1.0, epochs=9, per_epoch=3, milestones=[4, 2]), ["milestones", "[4, 2]"]),
        (lambda model: CELoss(epsilon=1.0), ["epsilon", "1.0"]),
        (lambda model: TopkAcc([0, 5]), ["topk", "[0, 5]"]),
    ],
)
def test_values_out_of_range(build, parts):
    with refused("training.bad-value", *parts):
        build(small_network())


def test_both_kinds_of_clipping_are_refused():
    with refused("training.bad-value", "clip_norm", "clip_global_norm"):
        Momentum(0.1, small_network(), momentum=0.9, clip_norm=1.0, clip_global_norm=1.0)


@pytest.fixture
def two_gradients():
    """A network, and a gradient for each trainable parameter of two successive steps."""
    model = small_network(layer_decay=0.5)
    rng = np.random.default_rng(0)
    parameters = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    gradients = [{name: rng.standard_normal(p.shape) for name, p in parameters.items()} for _ in range(2)]
    return model, parameters, gradients


def take_steps(optimizer, parameters, gradients):
    for step in gradients:
        for name, parameter in parameters.items():
            parameter.grad = paddle.to_tensor(step[name].astype("float32"))
        optimizer.step()
        optimizer.clear_grad()


def test_adamw_decays_matrices_only_and_honours_the_layers_scale(two_gradients):
    model, parameters, gradients = two_gradients
    start = {name: p.numpy().astype(np.float64) for name, p in parameters.items()}
    ids = model.layer_ids()
    rate, decay, epsilon = 1e-2, 0.3, 1e-8
    take_steps(AdamW(rate, model, weight_decay=decay, one_dim_param_no_weight_decay=True), parameters, gradients)
    for name, value in start.items():
        lr = rate * 0.5 ** (max(ids.values()) - ids[name])
        first, second = np.zeros_like(value), np.zeros_like(value)
        for step, gradient in enumerate((g[name] for g in gradients), 1):
            value = value * (1 - lr * decay) if value.ndim > 1 else value
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            value = value - lr * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + epsilon)
        np.testing.assert_allclose(parameters[name].numpy(), value, rtol=0, atol=2e-6, err_msg=name)


def test_the_head_has_its_own_rate(two_gradients, caplog):
    model, parameters, gradients = two_gradients
    start = {name: p.numpy().astype(np.float64) for name, p in parameters.items()}
    ids = model.layer_ids()
    take_steps(AdamW(1e-2, model, head_lr_mult=20.0), parameters, gradients[:1])
    for name, value in start.items():
        lr = 1e-2 * 0.5 ** (max(ids.values()) - ids[name]) * (20 if name.startswith("head.") else 1)
        expected = value - lr * np.sign(gradients[0][name])  # Adam's first step
        np.testing.assert_allclose(parameters[name].numpy(), expected, rtol=0, atol=2e-6 * max(1, lr), err_msg=name)
    assert "head.weight and head.bias learn at 20 times the learning rate" in caplog.text


def test_the_head_of_a_foreign_network_is_its_last_linear_layer():
    model = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.Linear(4, 2), paddle.nn.ReLU())
    AdamW(1e-2, model, head_lr_mult=5.0)
    scales = {name: p.optimize_attr["learning_rate"] for name, p in model.named_parameters()}
    assert scales == {"0.weight": 1, "0.bias": 1, "1.weight": 5, "1.bias": 5}


def test_momentum_decays_everything(two_gradients):
    model, parameters, gradients = two_gradients
    start = {name: p.numpy().astype(np.float64) for name, p in parameters.items()}
    ids = model.layer_ids()
    take_steps(Momentum(0.1, model, momentum=0.9, weight_decay=0.05), parameters, gradients)
    for name, value in start.items():
        lr, velocity = 0.1 * 0.5 ** (max(ids.values()) - ids[name]), 0.0
        for gradient in (g[name] for g in gradients):
            velocity = 0.9 * velocity + gradient + 0.05 * value
            value = value - lr * velocity
        np.testing.assert_allclose(parameters[name].numpy(), value, rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("epsilon", [None, 0.1])
def test_cross_entropy(soft, epsilon):
    rng = np.random.default_rng(0)
    logits, label = rng.standard_normal((6, 4)), rng.integers(4, size=6)
    target = rng.dirichlet(np.ones(4), 6) if soft else np.eye(4)[label]
    smoothed = target * (1 - (epsilon or 0)) + (epsilon or 0) / 4
    log_probability = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -(smoothed * log_probability).sum(1).mean()
    given = paddle.to_tensor(target.astype("float32") if soft else label)
    received = CELoss(epsilon)(paddle.to_tensor(logits.astype("float32")), given)
    assert float(received) == pytest.approx(expected, rel=1e-5)


def test_combined_loss_weighs_its_parts():
    logits, label = random_images(3, 4), paddle.to_tensor([0, 1, 2])
    values = CombinedLoss({"CELoss": CELoss(weight=2.5)})(logits, label)
    assert float(values["loss"]) == pytest.approx(2.5 * float(CELoss()(logits, label)), rel=1e-6)


def test_topk_counts_hits():
    logits = paddle.to_tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0]])
    assert TopkAcc([1, 2, 5])(logits, paddle.to_tensor([0, 0, 0])) == {"top1": 1, "top2": 2, "top5": 3}
