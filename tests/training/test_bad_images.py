"""Images that cannot be read: skipped in training up to a limit, never in evaluation."""

import json
from pathlib import Path

import pytest
from helpers import refused
from runs import config, same_weights
from test_distributed import launch

from ppreplk.training import Trainer
from ppreplk.training.checkpoint import TrainState

SHORT = ["Global.epochs=2", "Global.eval_during_train=False"]
WORKERS = "DataLoader.Train.loader.num_workers"
ONE_EPOCH = """
import sys

from ppreplk.config import load_config
from ppreplk.training import Trainer
from ppreplk.utils.distributed import rank

trainer = Trainer(load_config("config.yaml", sys.argv[1:]))
trainer.train_epoch(1)
print("process", rank(), "knows", sorted(trainer.state.bad_images), flush=True)
"""


def spoil(*numbers: int) -> list[str]:
    paths = [f"data/images/{number}.png" for number in numbers]
    for path in paths:
        Path(path).write_bytes(b"not an image")
    return paths


@pytest.fixture(autouse=True)
def project(colour_project, monkeypatch):
    monkeypatch.chdir(colour_project)
    return colour_project


def test_they_are_named_once_counted_and_skipped_by_workers_too(caplog):
    bad = spoil(0, 7)  # the first image is also the one that shared memory is sized by
    for folder, workers in (("alone", 0), ("workers", 2)):
        caplog.clear()
        options = [f"Global.output_dir={folder}", f"{WORKERS}={workers}", "Global.max_bad_images=2"]
        state = Trainer(config(*SHORT, *options)).fit()
        lines = [record.getMessage() for record in caplog.records if "; skipped, number" in record.getMessage()]
        assert len(lines) == 2 and lines[1].endswith("number 2 of at most 2")
        assert "data/train.txt, line 8: data/images/7.png: cannot be decoded" in "".join(lines)
        assert sorted(state.bad_images) == bad and state.step == 2 * 3
        assert sorted(json.loads(Path(folder, "latest.pdstates").read_text())["bad_images"]) == bad
    assert same_weights("alone/latest.pdparams", "workers/latest.pdparams")


def test_one_more_ends_the_training_in_one_line(caplog):
    spoil(0, 7, 9)
    with refused("data.too-many-bad-images", "with it 3 images", "Global.max_bad_images allows 2"):
        Trainer(config(*SHORT, "Global.max_bad_images=2")).fit()
    assert caplog.text.count("of at most 2") == 2


def test_none_is_skipped_unless_it_is_asked_for():
    spoil(3)
    with refused("data.unreadable-image", "data/train.txt, line 4: data/images/3.png", "Global.max_bad_images=N"):
        Trainer(config(*SHORT)).fit()


def test_a_resumed_training_goes_on_counting_and_ends_as_an_undisturbed_one():
    spoil(0, 7)
    options = ["Global.max_bad_images=2", "Global.eval_during_train=False"]
    Trainer(config(*options, "Global.output_dir=whole", "Global.epochs=3")).fit()
    Trainer(config(*options, "Global.epochs=1")).fit()
    resumed = [*options, "Global.checkpoints=output/latest", "Global.epochs=3"]
    Trainer(config(*resumed, "Global.output_dir=more")).fit()
    assert same_weights("whole/latest.pdparams", "more/latest.pdparams")
    spoil(9)
    with refused("data.too-many-bad-images", "data/images/9.png", "3 images"):
        Trainer(config(*resumed)).fit()


def test_a_checkpoint_of_before_has_skipped_none():
    assert TrainState(1, "AdamW").bad_images == []


@pytest.mark.parametrize("mixing", ["MixupCutmixHybrid", "OpSampler"])
def test_mixing_takes_what_is_left_of_a_batch(mixing):
    spoil(0, 1, 2, 3, 4)
    ops = {
        "MixupCutmixHybrid": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "num_classes": 3},
        "OpSampler": {"MixupOperator": {"alpha": 0.2, "prob": 0.5}, "CutmixOperator": {"alpha": 0.2, "prob": 0.5}},
    }
    key = "DataLoader.Train.dataset.batch_transform_ops"
    options = [f"{key}={json.dumps([{mixing: ops[mixing]}])}", "DataLoader.Train.sampler.batch_size=6"]
    trainer = Trainer(config(*SHORT, "Global.max_bad_images=5", *options))
    sizes = []
    trainer.loader.set_epoch(1)
    for images, labels in trainer.loader:
        assert images.shape[0] == labels.shape[0] and labels.shape[1] == 3
        assert float(abs(labels.sum(axis=1) - 1).max()) < 1e-5
        sizes.append(images.shape[0])
    assert sum(sizes) == 13
    assert trainer.fit().step == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_inside_with_the_images_that_were_skipped_in_it(workers):
    bad = spoil(0, 3, 7, 11, 14)
    options = ["Global.max_bad_images=5", "Global.save_step_interval=1", f"{WORKERS}={workers}", *SHORT]
    Trainer(config(*options, "Global.output_dir=whole")).fit()
    trainer = Trainer(config(*options))
    train_batch = trainer.stepper.train_batch

    def until_the_fifth(epoch, iteration, images, labels):
        if (epoch, iteration) == (2, 1):
            raise KeyboardInterrupt
        train_batch(epoch, iteration, images, labels)

    trainer.stepper.train_batch = until_the_fifth
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    resumed = Trainer(config(*options, "Global.checkpoints=output/latest"))
    assert resumed.state.iteration == 1 and sorted(resumed.state.bad_images) == sorted(bad)
    resumed.fit()
    assert same_weights("whole/latest.pdparams", "output/latest.pdparams")


def test_a_single_image_may_be_left():
    spoil(*range(5))
    options = ["Global.max_bad_images=5", "DataLoader.Train.sampler.shuffle=False"]
    key = "DataLoader.Train.dataset.batch_transform_ops"
    mixing = [{"MixupCutmixHybrid": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "num_classes": 3}}]
    trainer = Trainer(config(*SHORT, *options, f"{key}={json.dumps(mixing)}"))
    assert [images.shape[0] for images, _ in trainer.loader] == [1, 6, 6]
    assert trainer.fit().step == 6


def test_a_batch_of_nothing_else_is_one_line():
    spoil(*range(6))
    order = "DataLoader.Train.sampler.shuffle=False"
    with refused("data.empty-batch", "a batch of 6 would be empty", "data/images/0.png"):
        Trainer(config(*SHORT, "Global.max_bad_images=10", order)).fit()


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_never_goes_on_without_an_image(workers):
    spoil(20)
    options = ["Global.epochs=1", "Global.max_bad_images=5", f"DataLoader.Eval.loader.num_workers={workers}"]
    with refused("data.unreadable-image", "data/val.txt, line 3: data/images/20.png"):
        Trainer(config(*options)).fit()


def test_processes_count_together(project):
    bad = spoil(0, 5, 7)
    config()
    (project / "one_epoch.py").write_text(ONE_EPOCH)
    options = ["DataLoader.Train.sampler.batch_size=3", "Global.max_bad_images=3"]
    launch(project, "one_epoch.py", *options)
    for number in (0, 1):
        log = (project / "logs" / f"workerlog.{number}").read_text()
        assert f"process {number} knows {bad}" in log


@pytest.mark.slow
def test_together_they_may_be_too_many(project):
    spoil(0, 5, 7)
    config()
    (project / "one_epoch.py").write_text(ONE_EPOCH)
    with pytest.raises(AssertionError, match="3 images could not be used, and Global.max_bad_images allows 2"):
        launch(project, "one_epoch.py", "DataLoader.Train.sampler.batch_size=3", "Global.max_bad_images=2")
