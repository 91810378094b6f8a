"""The loop: determinism, accumulation, recomputation, log lines, divergence."""

import re
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import colour_config, random_images, refused, small_network
from runs import config, same_weights

from ppreplk.training import Trainer, evaluate_config, train
from ppreplk.utils.cores import default_threads
from ppreplk.utils.paddle_version import is_before
from ppreplk.weights import load_checkpoint


def test_learns_and_saves_what_paddleclas_saves(project):
    state = train(config("Global.epochs=30", "Global.save_interval=15"))
    assert (state.epoch, state.step, state.best_metric) == (30, 90, 1.0)
    names = {path.name for path in (project / "output").iterdir()}
    suffixes = ("pdparams", "pdopt", "pdstates")
    prefixes = ("latest", "best_model", "epoch_15", "epoch_30")
    assert names == {f"{prefix}.{suffix}" for prefix in prefixes for suffix in suffixes} | {
        "train.log",
        "metrics.csv",
        ".lock",
    }
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


def test_recomputation_trains_to_the_same_weights(project):
    train(config("Global.output_dir=plain", "Global.epochs=1"))
    train(config("Global.output_dir=recomputed", "Global.epochs=1", "Arch.use_checkpoint=True"))
    first, second = load_checkpoint("plain/latest"), load_checkpoint("recomputed/latest")
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_of_either_kind_gives_the_gradients(reentrant, monkeypatch):
    """Paddle before 3.3 needs a reentrant one, which works with every Paddle in one process."""
    if reentrant:
        monkeypatch.setattr(paddle, "__version__", "3.2.2")
    elif is_before(paddle.__version__, (3, 3)):
        pytest.skip(f"Paddle {paddle.__version__} crashes in the other one")
    images = random_images(2, 3, 32, 32)
    results = []
    for use_checkpoint in (False, True):
        model = small_network(drop_path_rate=0.0, use_checkpoint=use_checkpoint)
        if results:
            model.set_state_dict(results[0][0])
        state = {name: value.clone() for name, value in model.state_dict().items()}
        model.train()
        model(images).square().sum().backward()
        results.append((state, {name: value.grad for name, value in model.named_parameters()}, model.state_dict()))
    (_, first, statistics), (_, second, recomputed) = results
    for name, value in first.items():
        assert (value is None) == (second[name] is None), name
        if value is not None:
            np.testing.assert_allclose(second[name].numpy(), value.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
    for name, value in statistics.items():
        np.testing.assert_allclose(recomputed[name].numpy(), value.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


def test_recomputation_in_several_processes_needs_a_newer_paddle(monkeypatch):
    monkeypatch.setattr(paddle, "__version__", "3.2.2")
    monkeypatch.setattr("ppreplk.nn.blocks.processes", lambda: 2)
    model = small_network(use_checkpoint=True)
    model.train()
    with refused("nn.recomputation", "Paddle 3.3", "3.2.2", "Arch.use_checkpoint"):
        model(random_images(2, 3, 32, 32))


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
    with refused("training.not-finite", "in epoch 1, iteration ", "first layer with a non-finite output is "):
        train(config(*overrides))
    assert not (project / "output" / "latest.pdparams").exists()


def test_visualdl_curves_go_on_after_a_resume(project):
    reader = pytest.importorskip("visualdl").LogReader
    train(config("Global.epochs=2", "Global.use_visualdl=True"))
    train(config("Global.epochs=3", "Global.use_visualdl=True", "Global.checkpoints=output/latest"))
    steps = []
    for path in sorted(Path("output").glob("vdlrecords*.log")):
        steps += [entry.id for entry in reader(file_path=str(path)).get_data("scalar", "eval_top1")]
    assert steps == [3, 6, 9]


def test_another_batch_than_the_recipes_is_remarked_and_nothing_rescaled(project, caplog):
    trainer = Trainer(config("Global.global_batch=24", "Global.epochs=1"))
    trainer.fit()
    remark = "a step has 6 images, the recipe's learning rate is for 24; either set Global.update_freq to about 4"
    assert remark in caplog.text and remark in Path("output/train.log").read_text()
    assert trainer.schedule.lr_lambda(3) == 5e-3
    caplog.clear()
    train(config("Global.global_batch=6", "Global.epochs=1"))
    assert "recipe's learning rate" not in caplog.text


def test_fine_tuning_from_random_weights_is_remarked(project, caplog):
    once = ["Global.epochs=1", "Optimizer.head_lr_mult=10"]
    train(config(*once))
    assert "no weights are given: the network starts from random ones" in caplog.text
    caplog.clear()
    train(config(*once, "Global.pretrained_model=output/latest"))
    assert "random ones" not in caplog.text


@pytest.mark.parametrize(
    "override, code, parts",
    [
        (
            "Global.checkpoints=nothing",
            "training.incomplete-checkpoint",
            ["nothing.pdparams, nothing.pdopt, nothing.pdstates missing"],
        ),
        ("Global.pretrained_model=nothing", "checkpoints.no-file", ["nothing", "nothing.pdparams"]),
        ("Global.output_dir=config.yaml", "utils.cannot-write", ["Global.output_dir", "config.yaml"]),
        ("Global.device=gpu", "utils.no-device", ["Global.device", "'gpu'"]),
        ("Global.update_freq=4", "training.too-few-batches", ["Global.update_freq", "4 batches", "an epoch has 3"]),
        ("Loss.Train=[]", "config.bad-value", ["Loss.Train"]),
        ("Loss.Train=[{CELoss: {}}, {CELoss: {}}]", "training.too-many", ["Loss.Train[1]", "CELoss"]),
        ("Metric.Eval=[]", "training.needs-metric", ["Metric.Eval"]),
        ("Metric.Eval=[{TopkAcc: {}}, {TopkAcc: {}}]", "training.too-many", ["Metric.Eval[1]", "2"]),
    ],
)
def test_bad_settings(project, override, code, parts):
    if "gpu" in override and paddle.device.is_compiled_with_cuda():
        pytest.skip("this Paddle has the device")
    with refused(code, *parts):
        train(config(override))
    assert not (project / "output").exists()


def test_nothing_to_evaluate(project):
    with refused("training.nothing-to-evaluate", "Metric.Eval", "Loss.Eval"):
        evaluate_config(config("Metric.Eval=[]", "Loss.Eval=[]"))


@pytest.mark.parametrize("merged", [False, True])
def test_training_a_merged_network_is_remarked(project, caplog, merged):
    train(config("Global.epochs=1", f"Arch.merged={merged}"))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == merged and all("Arch.merged" in line for line in warnings)


def test_threads_follow_the_machine_or_the_setting(project, caplog):
    from ppreplk.utils.device import set_up_device

    assert f"{default_threads()} math thread" in set_up_device("cpu")
    assert set_up_device("cpu", 1) == "device cpu with 1 math thread"
    import threadpoolctl

    counts = {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "openmp"}
    assert counts == {1}
    set_up_device("cpu")
