"""Checkpoints and programs of version 0.1.0 load, and predict what they predicted then (tests/earlier)."""

import json

import numpy as np
import pytest
from helpers import ROOT, colour_config, require_channels_last_operators, require_depthwise_operators, write_config

from ppreplk.config import load_config
from ppreplk.deploy.infer import infer
from ppreplk.training import Trainer

EARLIER = ROOT / "tests" / "earlier"
EXPECTED = {entry["file_name"]: entry for entry in json.loads((EARLIER / "predictions.json").read_text())}


def assert_as_then(predictions, tolerance: float = 1e-4) -> None:
    """The probabilities were rounded to five digits; processors round differently."""
    received = {prediction.file_name: prediction for prediction in predictions}
    assert set(received) == set(EXPECTED)
    for name, expected in EXPECTED.items():
        assert received[name].class_ids == expected["class_ids"]
        assert received[name].label_names == expected["label_names"]
        assert np.allclose(received[name].scores, expected["scores"], rtol=0, atol=tolerance)


@pytest.fixture
def project(colour_project, monkeypatch):
    monkeypatch.chdir(colour_project)
    return colour_project


@pytest.mark.parametrize("weights", ["latest", "latest.pdparams"])
def test_weights(project, weights):
    config = load_config("config.yaml", [f"Global.pretrained_model={EARLIER / 'checkpoint' / weights}"])
    assert_as_then(infer(config))


def test_a_training_goes_on(project):
    config = {**colour_config(), "EMA": {"decay": 0.5}}
    write_config(project / "config.yaml", config)
    overrides = [f"Global.checkpoints={EARLIER / 'checkpoint' / 'latest'}", "Global.epochs=21"]
    state = Trainer(load_config("config.yaml", overrides)).fit()
    assert (state.epoch, state.step, state.best_epoch) == (21, 63, 21)


def test_program(project):
    assert_as_then(infer(load_config("config.yaml"), str(EARLIER / "program")))


def test_program_with_the_cpu_operator(project):
    require_depthwise_operators()
    assert_as_then(infer(load_config("config.yaml"), str(EARLIER / "program_compiled")))


@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-4), ("bf16", 2e-2)])
def test_channels_last_program(project, precision, tolerance):
    require_channels_last_operators()
    assert_as_then(infer(load_config("config.yaml"), str(EARLIER / "program_fast"), precision), tolerance)
