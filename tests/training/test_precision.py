"""Mixed precision as far as a CPU shows it: no effect there, and a loss scale that survives a resume."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from runs import config, same_weights

from ppreplk.config import AMPConfig
from ppreplk.training import Trainer, train
from ppreplk.training.precision import Precision


class Scaler:
    """Paddle's scaler works on GPUs only. This one has its state, and doubles the scale at every step."""

    _cache_found_inf = False

    def __init__(self, init_loss_scaling, use_dynamic_loss_scaling):
        self.state = {
            "scale": np.array([init_loss_scaling], np.float32),
            "incr_every_n_steps": 2000,
            "incr_count": 0,
            "decr_count": 0,
            "use_dynamic_loss_scaling": use_dynamic_loss_scaling,
        }

    def scale(self, loss):
        return loss

    def step(self, optimizer):
        optimizer.step()

    def update(self):
        self.state["scale"] = self.state["scale"] * 2
        self.state["incr_count"] += 1

    def state_dict(self):
        return dict(self.state)

    def load_state_dict(self, state):
        assert state["scale"].shape == (1,) and isinstance(state["incr_count"], int)
        self.state = dict(state)


@pytest.fixture
def scaled(project, monkeypatch):
    """Trainings on the CPU whose precision believes that it is on a GPU, and does not cast."""
    monkeypatch.setattr(paddle.amp, "GradScaler", Scaler)
    start = Precision.__init__

    def on_a_gpu(self, settings, device):
        start(self, settings, "gpu")
        self.config = None

    monkeypatch.setattr(Precision, "__init__", on_a_gpu)
    return project


def test_a_dynamic_loss_scale_goes_on_after_a_resume(scaled, caplog):
    caplog.set_level("INFO", "ppreplk")
    amp = {"use_dynamic_loss_scaling": True, "scale_loss": 128.0}
    train(config("Global.epochs=1", AMP=amp))
    expected = {"scale": 128.0 * 2**3, "incr_count": 3, "decr_count": 0, "skipped_steps": 0, "skipped_in_a_row": 0}
    assert json.loads(Path("output/latest.pdstates").read_text())["loss_scale"] == expected
    resumed = Trainer(config("Global.checkpoints=output/latest", AMP={**amp, "scale_loss": 1.0}))
    assert resumed.precision.loss_scale() == expected
    assert resumed.precision.scaler.state["incr_every_n_steps"] == 2000
    assert "the loss scale goes on from 1024" in caplog.text


def test_a_fixed_loss_scale_is_that_of_the_configuration(scaled):
    train(config("Global.epochs=1", AMP={"use_dynamic_loss_scaling": True, "scale_loss": 128.0}))
    resumed = Trainer(config("Global.checkpoints=output/latest", AMP={"scale_loss": 32.0}))
    assert resumed.precision.scaler.state["scale"] == 32.0
    resumed.fit()
    assert json.loads(Path("output/latest.pdstates").read_text())["loss_scale"] == {
        "skipped_steps": 0,
        "skipped_in_a_row": 0,
    }


def test_a_checkpoint_without_a_loss_scale_starts_at_the_configurations(project, scaled):
    train(config("Global.epochs=1"))
    resumed = Trainer(config("Global.checkpoints=output/latest", AMP={"use_dynamic_loss_scaling": True}))
    assert resumed.precision.loss_scale()["scale"] == AMPConfig().scale_loss


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_on_a_cpu_is_float32_and_says_so(project, caplog, dtype):
    caplog.set_level("INFO", "ppreplk")
    train(config("Global.output_dir=plain", "Global.epochs=1"))
    assert "AMP has no effect" not in caplog.text
    train(config("Global.output_dir=mixed", "Global.epochs=1", AMP={"use_amp": True, "level": "O2", "dtype": dtype}))
    assert "AMP has no effect" in caplog.text
    assert same_weights("plain/latest", "mixed/latest")
