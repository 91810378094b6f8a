"""The loop: determinism, resuming, accumulation, averages, checkpoints, divergence."""

import copy
import hashlib
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import colour_config, small_network, write_config

from ppreplk.checkpoints import load_checkpoint
from ppreplk.checkpoints.files import load_arrays
from ppreplk.config.checking import load_config
from ppreplk.training import Trainer, evaluate_config, train
from ppreplk.training.ema import ExponentialMovingAverage
from ppreplk.utils.cores import default_threads
from ppreplk.utils.errors import UserError


@pytest.fixture
def project(colour_project, monkeypatch):
    monkeypatch.chdir(colour_project)
    return colour_project


def config(*overrides, **sections):
    raw = {**copy.deepcopy(colour_config()), **sections}
    write_config(Path("config.yaml"), raw)
    return load_config("config.yaml", overrides)


def same_weights(first, second) -> bool:
    first, second = load_checkpoint(first), load_checkpoint(second)
    return set(first) == set(second) and all((first[name] == second[name]).all() for name in first)


def test_learns_and_saves_what_paddleclas_saves(project):
    state = train(config("Global.epochs=30", "Global.save_interval=15"))
    assert (state.epoch, state.step, state.best_metric) == (30, 90, 1.0)
    names = {path.name for path in (project / "output").iterdir()}
    suffixes = ("pdparams", "pdopt", "pdstates")
    prefixes = ("latest", "best_model", "epoch_15", "epoch_30")
    assert names == {f"{prefix}.{suffix}" for prefix in prefixes for suffix in suffixes} | {"train.log"}
    results = evaluate_config(config("Global.pretrained_model=output/best_model"))
    assert results["top1"] == 1.0


def test_log_lines(project):
    train(config("Global.epochs=2", "Global.print_batch_step=2"))
    log = (project / "output" / "train.log").read_text()
    line = re.search(r"\[Train\]\[Epoch 2/2\]\[Iter: 2/3\](.*)", log)[1]
    for name in ("lr", "top1", "loss", "batch_cost", "reader_cost", "ips", "eta"):
        assert f"{name}: " in line
    assert "[Eval][Epoch 2][Avg]top1" in log


def test_the_same_seed_gives_the_same_weights_and_another_does_not(project):
    train(config("Global.output_dir=a"))
    train(config("Global.output_dir=b"))
    train(config("Global.output_dir=c", "Global.seed=4"))
    assert same_weights("a/latest", "b/latest") and not same_weights("a/latest", "c/latest")


@pytest.mark.parametrize("ema", [None, {"decay": 0.9}], ids=["plain", "ema"])
def test_resuming_continues_bit_for_bit(project, ema):
    train(config("Global.output_dir=whole", "Global.epochs=4", EMA=ema))
    Trainer.evaluate_epoch, original = stop_after(2), Trainer.evaluate_epoch
    try:
        with pytest.raises(KeyboardInterrupt):
            train(config("Global.output_dir=parts", "Global.epochs=4", EMA=ema))
    finally:
        Trainer.evaluate_epoch = original
    state = train(config("Global.output_dir=parts", "Global.epochs=4", "Global.checkpoints=parts/latest", EMA=ema))
    assert state.epoch == 4 and state.step == 12
    for suffix in (".pdparams", ".pdema") if ema else (".pdparams",):
        assert same_weights(f"whole/latest{suffix}", f"parts/latest{suffix}")
    whole, parts = (json.loads(Path(f"{name}/latest.pdstates").read_text()) for name in ("whole", "parts"))
    assert whole.pop("digests").keys() == parts.pop("digests").keys() and whole == parts
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


def test_resuming_from_broken_files(project):
    train(config("Global.epochs=1"))
    for suffix, message in {".pdopt": "belong to another moment", ".pdstates": "not a whole checkpoint"}.items():
        whole = Path(f"output/latest{suffix}").read_bytes()
        Path(f"output/latest{suffix}").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=message):
            train(config("Global.checkpoints=output/latest"))
        Path(f"output/latest{suffix}").write_bytes(whole)


def test_resuming_another_training_is_refused(project):
    train(config("Global.output_dir=plain", "Global.epochs=1"))
    train(config("Global.output_dir=averaged", "Global.epochs=1", EMA={"decay": 0.9}))
    momentum = {"name": "Momentum", "momentum": 0.9, "lr": {"learning_rate": 0.05}}
    for message, changes, sections in (
        ("pdema missing", "plain", {"EMA": {"decay": 0.9}}),
        ("holds averaged weights", "averaged", {}),
        ("trained with AdamW, but Optimizer.name is Momentum", "plain", {"Optimizer": momentum}),
    ):
        with pytest.raises(UserError, match=message):
            train(config(f"Global.checkpoints={changes}/latest", **sections))
    with pytest.raises(UserError, match="1 epochs there are 3 steps, here 6"):
        train(config("Global.checkpoints=plain/latest", "DataLoader.Train.sampler.batch_size=3"))


def test_an_interrupted_save_is_noticed(project, monkeypatch):
    train(config("Global.epochs=2"))
    calls = []

    def interrupted(partial, path):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(partial, path)

    original = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Trainer(config("Global.checkpoints=output/latest", "Global.epochs=3")).fit()
    assert not list(Path("output").glob("*.partial"))
    with pytest.raises(UserError, match="saving was interrupted"):
        prefix = str(calls[0]).rpartition(".")[0]
        train(config(f"Global.checkpoints={prefix}", "Global.epochs=3"))


def test_resuming_runs_no_code_of_the_files(project):
    train(config("Global.epochs=1"))

    class Evil:
        def __reduce__(self):
            return os.system, ("touch witness",)

    Path("output/latest.pdopt").write_bytes(pickle.dumps({"a": Evil()}))
    states = json.loads(Path("output/latest.pdstates").read_text())
    states["digests"][".pdopt"] = hashlib.blake2b(Path("output/latest.pdopt").read_bytes(), digest_size=16).hexdigest()
    Path("output/latest.pdstates").write_text(json.dumps(states))
    with pytest.raises(UserError, match="refused, it names"):
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


def test_accumulation_equals_the_joined_batch(project):
    """SGD, batch normalization on running statistics, no drop path: 3 batches of 2 are one batch of 6."""
    results = []
    for size, frequency in ((6, 1), (2, 3)):
        trainer = Trainer(
            config(
                f"DataLoader.Train.sampler.batch_size={size}",
                f"Global.update_freq={frequency}",
                "Arch.drop_path_rate=0.0",
                Optimizer={"name": "Momentum", "momentum": 0.9, "lr": {"learning_rate": 0.05}},
            )
        )
        trainer.model.train = trainer.model.eval
        trainer.train_epoch(1)
        assert trainer.state.step == 3
        results.append({name: value.numpy() for name, value in trainer.model.state_dict().items()})
    for name, value in results[0].items():
        assert np.abs(results[1][name] - value).max() <= 1e-5 * max(np.abs(value).max(), 1e-3), name


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


def test_recomputation_trains_to_the_same_weights(project):
    train(config("Global.output_dir=plain", "Global.epochs=1"))
    train(config("Global.output_dir=recomputed", "Global.epochs=1", "Arch.use_checkpoint=True"))
    first, second = load_checkpoint("plain/latest"), load_checkpoint("recomputed/latest")
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_mixed_images_train_without_training_accuracy(project):
    raw = colour_config()
    raw["DataLoader"]["Train"]["dataset"]["batch_transform_ops"] = [
        {"MixupCutmixHybrid": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.0, "num_classes": 3}}
    ]
    state = train(config(DataLoader=raw["DataLoader"]))
    assert state.epoch == 3
    log = (project / "output" / "train.log").read_text()
    assert "top1" not in re.search(r"\[Train\].*", log)[0] and "top1" in re.search(r"\[Eval\].*", log)[0]


def test_divergence_names_epoch_iteration_and_layer(project):
    overrides = ["Optimizer.lr.learning_rate=1e30", "Optimizer.lr.name=ConstLR", "Optimizer.lr.warmup_epoch=0"]
    with pytest.raises(
        UserError,
        match=r"the loss is (nan|inf) in epoch 1, iteration \d; the first layer with a non-finite output is \w+",
    ):
        train(config(*overrides))
    assert not (project / "output" / "latest.pdparams").exists()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_on_a_cpu_is_float32_and_says_so(project, caplog, dtype):
    caplog.set_level("INFO", "ppreplk")
    train(config("Global.output_dir=plain", "Global.epochs=1"))
    assert "AMP has no effect" not in caplog.text
    train(config("Global.output_dir=mixed", "Global.epochs=1", AMP={"use_amp": True, "level": "O2", "dtype": dtype}))
    assert "AMP has no effect" in caplog.text
    assert same_weights("plain/latest", "mixed/latest")


def test_visualdl_curves_go_on_after_a_resume(project):
    reader = pytest.importorskip("visualdl").LogReader
    train(config("Global.epochs=2", "Global.use_visualdl=True"))
    train(config("Global.epochs=3", "Global.use_visualdl=True", "Global.checkpoints=output/latest"))
    steps = []
    for path in sorted(Path("output").glob("vdlrecords*.log")):
        steps += [entry.id for entry in reader(file_path=str(path)).get_data("scalar", "eval_top1")]
    assert steps == [3, 6, 9]


def test_starting_from_weights(project):
    train(config("Global.output_dir=first", "Global.epochs=1"))
    trainer = Trainer(config("Global.pretrained_model=first/latest"))
    expected = load_checkpoint("first/latest")
    assert all((value.numpy() == expected[name]).all() for name, value in trainer.model.state_dict().items())
    assert trainer.state.epoch == 0


def test_another_number_of_classes_gets_a_new_head(project, caplog):
    caplog.set_level("INFO", "ppreplk")
    train(config("Global.output_dir=first", "Global.epochs=1"))
    trainer = Trainer(config("Global.pretrained_model=first/latest", "Arch.class_num=4"))
    assert "has a head for 3 classes; a new one for 4 starts from scratch" in caplog.text
    expected = load_checkpoint("first/latest")
    for name, value in trainer.model.state_dict().items():
        assert name.startswith("head.") or (value.numpy() == expected[name]).all()
    with pytest.raises(UserError, match="has a head for 3 classes, but Arch.class_num is 4"):
        evaluate_config(config("Global.pretrained_model=first/latest", "Arch.class_num=4"))


def test_another_batch_than_the_recipes_is_remarked_and_nothing_rescaled(project, caplog):
    trainer = Trainer(config("Global.global_batch=24"))
    assert (
        "a step has 6 images, the recipe's learning rate is for 24; either set Global.update_freq to about 4"
        in caplog.text
    )
    assert trainer.schedule.lr_lambda(3) == 5e-3
    caplog.clear()
    Trainer(config("Global.global_batch=6"))
    assert "recipe's learning rate" not in caplog.text


@pytest.mark.parametrize(
    "override, message",
    [
        ("Global.pretrained_model=nothing", "no checkpoint at nothing"),
        ("Global.checkpoints=nothing", r"cannot resume, nothing\.pdparams, nothing\.pdopt, nothing\.pdstates missing"),
        ("Global.update_freq=4", "4 batches make one step, but an epoch has 3"),
        ("Global.output_dir=config.yaml", "cannot create config.yaml"),
        ("Global.device=gpu", "Global.device: this Paddle cannot use 'gpu'"),
        ("Loss.Train=[]", "at least one criterion"),
        ("Metric.Eval=[]", "Metric.Eval: needed to choose the best model"),
    ],
)
def test_bad_settings(project, override, message):
    if "gpu" in override and paddle.device.is_compiled_with_cuda():
        pytest.skip("this Paddle has the device")
    with pytest.raises(UserError, match=message):
        train(config(override))
    assert not (project / "output").exists()


def test_weights_of_another_architecture_are_counted(project):
    train(config("Global.output_dir=first", "Global.epochs=1"))
    with pytest.raises(UserError, match=r"first/latest.*: \d+ matched, \d+ missing, \d+ unexpected, \d+ mis-shaped"):
        train(config("Global.pretrained_model=first/latest", "Arch.layers=[1, 2]", "Arch.channels=[8, 16]"))


def test_threads_follow_the_machine_or_the_setting(project, caplog):
    from ppreplk.utils.device import set_up_device

    assert f"{default_threads()} math thread" in set_up_device("cpu")
    assert set_up_device("cpu", 1) == "device cpu with 1 math thread"
    import threadpoolctl

    counts = {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"}
    assert counts == {1}
    set_up_device("cpu")
