"""Two processes over gloo train as one process does with the joined batch."""

import json
import os
import subprocess
import sys

import numpy as np
import paddle
import pytest
from helpers import ROOT, colour_config, write_config

from ppreplk.config import load_config
from ppreplk.training import Trainer
from ppreplk.weights import load_checkpoint

ONE_EPOCH = """
import sys
from pathlib import Path

from ppreplk.config import load_config
from ppreplk.training import Trainer
from test_distributed import use_running_statistics

trainer = Trainer(load_config("config.yaml", sys.argv[1:]))
use_running_statistics(trainer.model)
trainer.train_epoch(1)
trainer.save(Path("two"))
"""

PLAIN_AND_RECOMPUTED = """
import sys

from ppreplk.config import load_config
from ppreplk.training import train

for folder, recomputed in (("plain", False), ("recomputed", True)):
    options = [*sys.argv[1:], f"Global.output_dir={folder}", f"Arch.use_checkpoint={recomputed}"]
    train(load_config("config.yaml", options))
"""

STOPPED = """
import os, signal, sys

from ppreplk.config import load_config
from ppreplk.training import train
from ppreplk.training.checkpoint_files import read_manifest
from ppreplk.training.stepping import Stepper
from ppreplk.utils.distributed import rank

class Ended(BaseException):
    pass

def end(number, frame):
    raise Ended

signal.signal(signal.SIGTERM, end)
train(load_config("config.yaml", ["Global.output_dir=whole"]))
step = Stepper.train_batch

def train_batch(self, epoch, iteration, images, labels):
    if (rank(), epoch, iteration) == (1, 2, 0):
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, epoch, iteration, images, labels)

Stepper.train_batch = train_batch
try:
    train(load_config("config.yaml"))
    sys.exit("not stopped")
except Ended:
    pass
Stepper.train_batch = step
state = read_manifest("output/latest").state
assert (state.epoch, state.iteration, state.step, state.averages["loss"][1]) == (1, 3, 6, 18), state
state = train(load_config("config.yaml", ["Global.checkpoints=auto"]))
assert state == read_manifest("whole/latest").state, state
"""


def launch(project, *command: str) -> None:
    """Run a script in two processes; show their logs if it fails."""
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo"]
    process = subprocess.run(
        [*launcher, "--log_dir", "logs", *command], cwd=project, capture_output=True, text=True, timeout=300
    )
    logs = "".join(path.read_text() for path in sorted((project / "logs").glob("workerlog.*")))
    assert process.returncode == 0, logs


def use_running_statistics(model) -> None:
    """In training too: batch normalization is not synchronized on a CPU, so that its batch is that of one process."""

    def train() -> None:
        paddle.nn.Layer.train(model)
        for layer in model.sublayers():
            if isinstance(layer, paddle.nn.BatchNorm2D):
                layer.eval()

    model.train = train


@pytest.mark.parametrize("update_freq, recomputed", [(1, False), (3, True)])
def test_two_processes_equal_one_with_the_joined_batch(colour_project, monkeypatch, update_freq, recomputed):
    """Raw and averaged weights, with gradients of several batches and recomputed activations, too."""
    monkeypatch.chdir(colour_project)
    config = {**colour_config(), "EMA": {"decay": 0.5}}
    config["Optimizer"] = {"name": "Momentum", "momentum": 0.9, "lr": {"learning_rate": 0.05}}
    config["Arch"]["drop_path_rate"] = 0.0
    write_config(colour_project / "config.yaml", config)
    trainer = Trainer(load_config("config.yaml", ["DataLoader.Train.sampler.batch_size=6"]))
    use_running_statistics(trainer.model)
    trainer.train_epoch(1)
    (colour_project / "one_epoch.py").write_text(ONE_EPOCH)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), str(ROOT / "tests/training"), str(ROOT)]))
    options = [f"Global.update_freq={update_freq}", f"DataLoader.Train.sampler.batch_size={3 // update_freq}"]
    launch(colour_project, "one_epoch.py", *options, f"Arch.use_checkpoint={recomputed}")
    for suffix, model in ((".pdema", trainer.model), (".pdparams", trainer.ema.model)):
        received = load_checkpoint(f"two{suffix}")
        for name, value in model.state_dict().items():
            expected = value.numpy()
            assert np.abs(received[name] - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1e-3), name
    assert json.loads((colour_project / "two.pdstates").read_text())["step"] == 3


def test_recomputation_in_two_processes_trains_to_the_same_weights(colour_project, monkeypatch):
    """Drop path, statistics of batch normalizations, and gradients that stay local before a step's last batch."""
    monkeypatch.chdir(colour_project)
    (colour_project / "both.py").write_text(PLAIN_AND_RECOMPUTED)
    steps = ["Global.epochs=1", "Global.update_freq=2", "DataLoader.Train.sampler.batch_size=2"]
    launch(colour_project, "both.py", *steps)
    expected, received = load_checkpoint("plain/latest"), load_checkpoint("recomputed/latest")
    assert set(expected) == set(received)
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(colour_project):
    """Signalled is the one that does not write. The run goes on, and ends as one that was not stopped."""
    config = {**colour_config(), "EMA": {"decay": 0.9}}
    config["DataLoader"]["Train"]["sampler"]["batch_size"] = 3
    write_config(colour_project / "config.yaml", config)
    (colour_project / "stopped.py").write_text(STOPPED)
    launch(colour_project, "stopped.py")
    for name in ("latest.pdparams", "latest.pdema", "best_model.pdparams"):
        expected, received = (load_checkpoint(str(colour_project / run / name)) for run in ("whole", "output"))
        assert all((expected[key] == received[key]).all() for key in expected), name


def test_the_tool_under_the_launcher(colour_project):
    """Every held-out image is counted once, though seven do not divide by two; one process writes."""
    lines = (colour_project / "data" / "train.txt").read_text().splitlines()
    (colour_project / "data" / "val.txt").write_text("\n".join(lines[:7]) + "\n")
    launch(colour_project, str(ROOT / "tools" / "train.py"), "-c", "config.yaml", "-o", "Global.epochs=1")
    log = (colour_project / "output" / "train.log").read_text()
    assert "process 0 of 2" in log and "process 1 of 2" not in log
    weights = ["Global.pretrained_model=output/latest"]
    command = [sys.executable, str(ROOT / "tools" / "eval.py"), "-c", "config.yaml", "-o", *weights]
    alone = subprocess.run(command, cwd=colour_project, capture_output=True, text=True, timeout=120)
    assert alone.stderr.split("[Avg]")[1].strip() == log.split("[Eval][Epoch 1][Avg]")[1].splitlines()[0].strip()
