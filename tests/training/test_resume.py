"""Checkpoints of a training: resuming bit for bit, and what is refused."""

import json
import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import refused, require_depthwise_operators
from runs import config, same_weights

from ppreplk.checkpoints.files import load_arrays
from ppreplk.training import Trainer, train
from ppreplk.training.checkpoint_files import read_manifest
from ppreplk.utils.digests import blake2b_of
from ppreplk.weights import load_checkpoint


@pytest.mark.parametrize(
    "layout, ema", [("nchw", None), ("nchw", {"decay": 0.9}), ("channels_last", {"decay": 0.9})], ids=str
)
def test_resuming_continues_bit_for_bit(project, layout, ema):
    if layout == "channels_last":
        require_depthwise_operators()
    check_resuming(partial(config, f"Global.train_layout={layout}"), ema)


def test_resuming_with_products_of_two_parts_continues_bit_for_bit(project, tiles, caplog):
    """And in float32, which is not compared, since the processor decides too."""
    caplog.set_level("INFO", "ppreplk")
    here = partial(config, "Global.train_layout=channels_last", "Global.train_products=fp32-bf16x3")
    check_resuming(here, None, epochs=2)
    assert "multiply in fp32-bf16x3" in caplog.text
    caplog.clear()
    train(config("Global.output_dir=parts", "Global.epochs=3", "Global.checkpoints=parts/latest"))
    assert "parts/latest" in caplog.text and "train_products" not in caplog.text


def check_resuming(here, ema, epochs=4):
    """Stopped in the middle."""
    here = partial(here, f"Global.epochs={epochs}", EMA=ema)
    train(here("Global.output_dir=whole"))
    Trainer.evaluate_epoch, original = stop_after(epochs // 2), Trainer.evaluate_epoch
    try:
        with pytest.raises(KeyboardInterrupt):
            train(here("Global.output_dir=parts"))
    finally:
        Trainer.evaluate_epoch = original
    state = train(here("Global.output_dir=parts", "Global.checkpoints=parts/latest"))
    assert state.epoch == epochs and state.step == 3 * epochs
    for suffix in (".pdparams", ".pdema") if ema else (".pdparams",):
        assert same_weights(f"whole/latest{suffix}", f"parts/latest{suffix}")
    whole, parts = (read_manifest(f"{name}/latest") for name in ("whole", "parts"))
    assert whole.digests.keys() == parts.digests.keys() and whole.state == parts.state
    whole, parts = load_arrays("whole/latest.pdopt"), load_arrays("parts/latest.pdopt")
    assert set(whole) == set(parts)
    for name in whole:
        if name != "LR_Scheduler":
            assert (np.asarray(whole[name]) == np.asarray(parts[name])).all(), name


def test_resuming_keeps_the_seed_that_was_drawn(project):
    first = Trainer(config("Global.seed=null", "Global.epochs=1"))
    first.fit()
    second = Trainer(config("Global.seed=null", "Global.checkpoints=output/latest.pdparams"))
    assert second.state == first.state and second.loader.dataset.seed == first.state.seed


def test_what_a_resumed_run_inherits_is_said(project, caplog):
    """Seed, folder and best model, where the configuration says something else; nothing where it does not."""
    caplog.set_level("INFO", "ppreplk")
    train(config("Global.output_dir=first", "Global.epochs=1"))
    best = json.loads(Path("first/latest.pdstates").read_text())["best_metric"]
    caplog.clear()
    resumed = ["Global.checkpoints=first/latest", "Global.epochs=2"]
    changed = ["Global.seed=4", "Global.output_dir=second", "Global.pretrained_model=first/best_model"]
    assert train(config(*resumed, *changed)).seed == 3
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        "Global.seed is 4; the checkpoint's seed, 3, counts",
        "Global.pretrained_model is not read: the weights are those of Global.checkpoints",
        "the run was saved in first, it goes on in second (Global.output_dir)",
    ]
    assert f"best metric so far: {best:.5f}, epoch 1; second/best_model is written once that is reached" in caplog.text
    caplog.clear()
    train(config("Global.checkpoints=first/latest", "Global.epochs=2", "Global.output_dir=./first/"))
    assert "WARNING" not in caplog.text and f"best metric so far: {best:.5f}, epoch 1\n" in caplog.text


def test_an_earlier_run_in_the_output_folder_is_named(project, caplog):
    train(config("Global.output_dir=first", "Global.epochs=1"))
    train(config("Global.output_dir=second", "Global.epochs=1"))
    assert "earlier run" not in caplog.text
    train(config("Global.output_dir=second", "Global.epochs=2", "Global.checkpoints=first/latest"))
    assert "second holds an earlier run" in caplog.text


def test_the_first_step_after_resuming_runs_at_the_rate_of_the_configuration(project):
    train(config("Global.epochs=1"))
    resumed = ["Global.checkpoints=output/latest", "Global.epochs=3"]
    trainer = Trainer(config(*resumed, "Optimizer.lr.learning_rate=1e-3"))
    assert trainer.optimizer.get_lr() == trainer.schedule.lr_lambda(3) == 1e-3
    unmoved = config(*resumed, Optimizer={"name": "AdamW", "lr": {"name": "ConstLR", "learning_rate": 0.0}})
    trainer = Trainer(unmoved)
    trainer.train_epoch(2)
    before = load_checkpoint("output/latest")
    for name, value in trainer.model.named_parameters():
        assert value.stop_gradient or (value.numpy() == before[name]).all(), name


def test_resuming_from_broken_files(project):
    train(config("Global.epochs=1"))
    for suffix in (".pdopt", ".pdstates"):
        whole = Path(f"output/latest{suffix}").read_bytes()
        Path(f"output/latest{suffix}").write_bytes(whole[: len(whole) // 2])
        with refused("training.incomplete-checkpoint", f"output/latest{suffix}"):
            train(config("Global.checkpoints=output/latest"))
        Path(f"output/latest{suffix}").write_bytes(whole)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"digests": {}}', '{"digests": {"x": "y"}, "seed": 1}'])
def test_resuming_from_other_states(project, content):
    train(config("Global.epochs=1"))
    Path("output/latest.pdstates").write_text(content)
    with refused("training.incomplete-checkpoint", "output/latest.pdstates"):
        train(config("Global.checkpoints=output/latest"))


@pytest.mark.parametrize("suffix", [".pdparams", ".pdema", ".pdopt", ".pdstates"])
def test_resuming_without_one_of_the_files(project, suffix):
    ema = {"decay": 0.5}
    train(config("Global.epochs=1", EMA=ema))
    Path(f"output/latest{suffix}").unlink()
    with refused("training.incomplete-checkpoint", f"output/latest{suffix}", "missing"):
        train(config("Global.checkpoints=output/latest", EMA=ema))


def test_resuming_another_training_is_refused(project):
    train(config("Global.output_dir=plain", "Global.epochs=1"))
    train(config("Global.output_dir=averaged", "Global.epochs=1", EMA={"decay": 0.9}))
    momentum = {"name": "Momentum", "momentum": 0.9, "lr": {"learning_rate": 0.05}}
    for code, parts, folder, sections in (
        ("training.wrong-checkpoint", ["plain/latest", "no averaged weights"], "plain", {"EMA": {"decay": 0.9}}),
        ("training.wrong-checkpoint", ["averaged/latest", "averaged weights"], "averaged", {}),
        ("training.wrong-checkpoint", ["AdamW", "Momentum"], "plain", {"Optimizer": momentum}),
    ):
        with refused(code, *parts):
            train(config(f"Global.checkpoints={folder}/latest", **sections))
    with refused("training.wrong-checkpoint", "plain/latest", "3 steps", "epoch 1", "would take 6"):
        train(config("Global.checkpoints=plain/latest", "DataLoader.Train.sampler.batch_size=3"))


def test_resuming_runs_no_code_of_the_files(project):
    train(config("Global.epochs=1"))

    class Evil:
        def __reduce__(self):
            return os.system, ("touch witness",)

    Path("output/latest.pdopt").write_bytes(pickle.dumps({"a": Evil()}))
    manifest = read_manifest("output/latest")
    manifest.digests[".pdopt"] = blake2b_of("output/latest.pdopt")
    Path("output/latest.pdstates").write_text(manifest.text())
    with refused("checkpoints.refused", "output/latest.pdopt"):
        train(config("Global.checkpoints=output/latest"))
    assert not Path("witness").exists()


def stop_after(epoch):
    """An evaluation that interrupts the run in the epoch after ``epoch``."""
    original = Trainer.evaluate_epoch

    def evaluate_epoch(self, current, output):
        if current > epoch:
            raise KeyboardInterrupt
        original(self, current, output)

    return evaluate_epoch
