"""Averaged weights."""

import numpy as np
from helpers import small_network
from runs import config, same_weights

from ppreplk.training import Trainer
from ppreplk.training.ema import ExponentialMovingAverage
from ppreplk.weights import load_checkpoint


def test_moving_average_follows_its_definition():
    model = small_network()
    average = ExponentialMovingAverage(model, 0.75)
    expected = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    rng = np.random.default_rng(0)
    for _ in range(3):
        for name, value in model.state_dict().items():
            value.set_value(rng.standard_normal(value.shape).astype("float32"))
            expected[name] = 0.75 * expected[name] + 0.25 * value.numpy()
        average.update(model)
    for name, value in average.model.state_dict().items():
        np.testing.assert_allclose(value.numpy(), expected[name], atol=1e-6)
    assert not average.model.training


def test_averaged_weights_are_the_ones_to_use(project):
    trainer = Trainer(config(EMA={"decay": 0.5}))
    trainer.fit()
    weights, raw = load_checkpoint("output/latest.pdparams"), load_checkpoint("output/latest.pdema")
    for name, value in trainer.ema.model.state_dict().items():
        assert (weights[name] == value.numpy()).all()
    for name, value in trainer.model.state_dict().items():
        assert (raw[name] == value.numpy()).all()
    assert not same_weights("output/latest.pdparams", "output/latest.pdema")
