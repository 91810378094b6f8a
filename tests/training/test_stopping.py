"""A run that a signal stops saves where it is, says how to go on, and ends like one that was not stopped."""

import errno
import json
import logging
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, refused
from runs import config, same_weights

from ppreplk.checkpoints.pretrained import build_trained_network
from ppreplk.config import load_config
from ppreplk.training import Trainer, train
from ppreplk.training.checkpoint_files import read_manifest, without_suffix
from ppreplk.training.checkpoint_search import find_newest
from ppreplk.training.stepping import Stepper

AUTO = "Global.checkpoints=auto"
OPTIONS = ["DataLoader.Train.sampler.batch_size=3", "Global.update_freq=2"]  # 6 batches, 3 steps
ALL = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")]


class Ended(BaseException):
    """What the handler of these tests raises."""


@pytest.fixture(autouse=True)
def handlers():
    def end(number, frame):
        raise Ended(number)

    before = {number: signal.signal(number, end) for number in ALL}
    yield end
    for number, handler in before.items():
        assert signal.getsignal(number) is not None
        signal.signal(number, handler)


def at(monkeypatch, moment: tuple[int, int], *numbers: int) -> None:
    """Send this process signals while it trains on the batch (epoch, iteration)."""
    step = Stepper.train_batch

    def train_batch(self, epoch, iteration, images, labels):
        result = step(self, epoch, iteration, images, labels)
        if (epoch, iteration) == moment:
            for number in numbers:
                os.kill(os.getpid(), number)
        return result

    monkeypatch.setattr(Stepper, "train_batch", train_batch)


def stopped(project_config, *numbers: int) -> None:
    with pytest.raises(Ended) as ended:
        train(project_config)
    assert ended.value.args == (numbers[0],)


@pytest.mark.parametrize("number", ALL)
def test_a_signal_stops_after_the_running_step_and_the_run_goes_on_bit_for_bit(project, monkeypatch, caplog, number):
    ema = {"decay": 0.9}
    train(config("Global.output_dir=whole", *OPTIONS, EMA=ema))
    with monkeypatch.context() as patch:
        at(patch, (2, 2), number)  # the first batch of the second step
        stopped(config(*OPTIONS, EMA=ema), number)
    state = read_manifest("output/latest").state
    assert (state.epoch, state.iteration, state.step) == (1, 4, 5) and state.averages["loss"][1] == 12
    assert "saved output/latest, 4 batches of epoch 2" in caplog.text
    assert caplog.messages[-1] == "stopped; go on with -o Global.checkpoints=output/latest"
    caplog.clear()
    assert train(config(*OPTIONS, AUTO, EMA=ema)).epoch == 3
    assert "resumed from output/latest, 4 batches of epoch 2 of 3" in caplog.text
    for name in ("latest.pdparams", "latest.pdema", "best_model.pdparams"):
        assert same_weights(f"output/{name}", f"whole/{name}")
    logs = [Path(f"{folder}/train.log").read_text() for folder in ("whole", "output")]
    first, second = (re.findall(r"\[Train\]\[Epoch 2/3\]\[Avg\].*", log) for log in logs)
    assert len(first) == 1 and first == second


def test_stopped_while_it_evaluates_it_goes_on_with_the_evaluation(project, monkeypatch, caplog):
    train(config("Global.output_dir=whole"))

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the evaluation goes on")

    with monkeypatch.context() as patch:
        patch.setattr("ppreplk.training.trainer.evaluate", interrupted)
        stopped(config(), signal.SIGTERM)
    state = read_manifest("output/latest").state
    assert (state.epoch, state.iteration, state.step) == (0, 3, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "train_batch", lambda *arguments: pytest.fail("trained again"))
        patch.setattr("ppreplk.training.trainer.evaluate", interrupted)
        stopped(config(AUTO), signal.SIGTERM)
    assert train(config(AUTO)).epoch == 3
    assert read_manifest("output/latest").state == read_manifest("whole/latest").state
    assert same_weights("output/best_model", "whole/best_model")


def test_a_second_interrupt_stops_at_once_and_a_repeated_termination_does_not(project, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        at(patch, (1, 0), signal.SIGINT, signal.SIGINT)
        stopped(config(*OPTIONS), signal.SIGINT)
    assert caplog.messages[-1] == "stopped before anything was saved" and not Path("output/latest.pdstates").exists()
    with monkeypatch.context() as patch:
        at(patch, (1, 0), signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
        stopped(config(*OPTIONS), signal.SIGTERM)
    assert read_manifest("output/latest").state.iteration == 2


def test_a_second_interrupt_stops_at_once_after_a_termination_too(project, monkeypatch):
    at(monkeypatch, (1, 0), signal.SIGTERM, signal.SIGINT, signal.SIGINT)
    stopped(config(*OPTIONS), signal.SIGTERM)
    assert not Path("output/latest.pdstates").exists()


def test_a_signal_that_comes_too_late_is_passed_on(project, monkeypatch):
    """Otherwise Ctrl-C would be lost on a program that runs one training after the other."""
    save = Trainer._save_epoch

    def save_epoch(self, names):
        save(self, names)
        self.stop.requested = lambda: os.kill(os.getpid(), signal.SIGINT)  # has asked when the signal comes

    monkeypatch.setattr(Trainer, "_save_epoch", save_epoch)
    stopped(config("Global.epochs=1"), signal.SIGINT)
    assert read_manifest("output/latest").state.epoch == 1


def test_what_was_ignored_stays_ignored(project, monkeypatch):
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    at(monkeypatch, (1, 0), signal.SIGHUP)
    assert train(config("Global.epochs=1")).epoch == 1
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("missing", ["latest", "epoch_2"])
def test_stopped_between_two_checkpoints_of_a_moment_both_are_written(project, monkeypatch, missing):
    """After best_model, before epoch_2 and latest; after epoch_2, before latest. It is the last epoch."""
    options = ["Global.epochs=2", "Global.save_interval=1", "Global.keep_checkpoints=1"]
    train(config("Global.output_dir=whole", *options))
    save = Trainer.save

    def failing(self, prefix):
        if self.state.epoch == 2 and prefix.name == missing:
            raise Ended
        save(self, prefix)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", failing)
        with pytest.raises(Ended):
            train(config(*options))
    assert train(config(*options, AUTO)).epoch == 2
    assert {path.name for path in Path("output").iterdir()} == {path.name for path in Path("whole").iterdir()}
    for name in ("latest", "best_model", "epoch_2"):
        assert same_weights(f"output/{name}", f"whole/{name}")
        assert read_manifest(f"output/{name}").state == read_manifest(f"whole/{name}").state


def test_what_a_killed_run_has_left_aside_goes_to_its_place_or_goes(project):
    train(config("Global.epochs=1", "Global.save_interval=1"))
    names = {path.name for path in Path("output").iterdir()}
    for suffix in (".pdparams", ".pdopt"):  # killed after the change
        os.rename(f"output/epoch_1{suffix}", f"output/epoch_1{suffix}.next")
    for name in ("latest.pdparams.next", "epoch_2.pdopt.next"):  # killed before it
        Path(f"output/{name}").write_text("half")
    Path("output/mine.pdparams.next").write_text("mine")
    assert train(config("Global.epochs=1", AUTO)).epoch == 1
    assert {path.name for path in Path("output").iterdir()} == {*names, "mine.pdparams.next"}


# --------------------------------------------------------------------------------------------------------
# Which checkpoint, and which of them stay


def test_auto_without_a_checkpoint_is_a_fresh_start(project, caplog):
    assert train(config(AUTO, "Global.epochs=1")).epoch == 1
    assert "Global.checkpoints is auto, and output holds no checkpoint: a fresh start" in caplog.text


def test_auto_goes_on_with_the_last_run_of_a_folder(project):
    """Not with an earlier one that came further, whether the last one began anew or went back."""
    train(config("Global.save_interval=1"))
    train(config("Global.epochs=1", "Global.seed=5"))
    found = find_newest("output", "AdamW", False)
    assert (found.state.seed, found.state.epoch, found.state.run) == (5, 1, 1)
    train(config("Global.checkpoints=output/epoch_2", "Global.epochs=2"))
    train(config("Global.checkpoints=output/epoch_2", "Global.epochs=3", "Global.output_dir=output"))
    found = find_newest("output", "AdamW", False)
    assert (found.state.seed, found.state.epoch) == (3, 3)


def test_going_back_overwrites_nothing_before_it_has_trained(project, caplog):
    train(config("Global.save_interval=1", "Global.epochs=2"))
    caplog.clear()
    train(config("Global.checkpoints=output/epoch_1", "Global.epochs=1"))
    assert "output holds newer checkpoints than the end of epoch 1; they will be overwritten" in caplog.text
    assert read_manifest("output/latest").state.epoch == read_manifest("output/best_model").state.epoch == 2


def test_a_damaged_checkpoint_that_is_passed_over_is_written_anew(project, caplog):
    options = ["Global.save_interval=1", "Global.epochs=2"]
    train(config("Global.output_dir=whole", *options))
    train(config(*options))
    os.truncate("output/latest.pdparams", 100)
    assert train(config(*options, AUTO)).epoch == 2
    assert "passed over: the checkpoint output/latest is damaged" in caplog.text
    assert same_weights("output/latest", "whole/latest")


def test_only_the_newest_epochs_stay_and_nothing_of_others_goes(project):
    Path("output").mkdir()
    others = ["epoch_1.pdparams.txt", "epoch_7.pdparams", "epoch_x.pdstates", "epoch_0.pdstates", "notes.pdopt"]
    for name in others:
        Path(f"output/{name}").write_text("mine")
    options = ["Global.save_interval=1", "Global.keep_checkpoints=2"]
    train(config(*options, "Global.epochs=2"))
    Path("output/epoch_1.pdparams").write_text("mine")  # in the place of a file of ours
    train(config(*options, AUTO, "Global.epochs=5"))
    for name in [*others, "epoch_1.pdparams"]:
        assert Path(f"output/{name}").read_text() == "mine"
    kept = {without_suffix(path.name) for path in Path("output").glob("*.pdstates")} - {"epoch_x", "epoch_0"}
    assert kept == {"best_model", "latest", "epoch_1", "epoch_4", "epoch_5"}


def test_a_checkpoint_of_an_earlier_version_is_gone_on_with(project):
    """Its states have fewer keys."""
    train(config("Global.output_dir=whole", "Global.epochs=2"))
    train(config("Global.epochs=1"))
    for name in ("latest", "best_model"):
        path = Path(f"output/{name}.pdstates")
        content = json.loads(path.read_text())
        kept = ("seed", "optimizer", "epoch", "step", "best_metric", "best_epoch", "digests")
        path.write_text(json.dumps({key: content[key] for key in kept}))
    assert train(config(AUTO, "Global.epochs=2")).epoch == 2
    assert same_weights("output/latest", "whole/latest")


def test_what_differs_from_the_configuration_of_the_checkpoint_is_said(project, caplog):
    train(config("Global.epochs=1"))
    caplog.clear()
    changes = ["Optimizer.lr.learning_rate=1e-3", "Arch.drop_path_rate=0.2"]
    changes += ["Optimizer.weight_decay=5e-2", "DataLoader.Train.loader.num_workers=2"]
    train(config(AUTO, "Global.epochs=2", *changes))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        "Arch.drop_path_rate is 0.2; the checkpoint was trained with 0.1",
        "Optimizer.lr.learning_rate is 1e-3; the checkpoint was trained with 5e-3",
    ]
    assert "Global.epochs is 2; the checkpoint was trained with 1" in caplog.text


def test_a_checkpoint_inside_an_epoch_needs_the_same_steps(project, monkeypatch):
    at(monkeypatch, (1, 2), signal.SIGTERM)
    stopped(config(*OPTIONS), signal.SIGTERM)
    with refused("training.wrong-checkpoint", "output/latest took 2 steps to 4 batches of epoch 1", "update_freq"):
        Trainer(config(OPTIONS[0], AUTO, "Global.update_freq=1"))


def test_processes_that_see_other_checkpoints_do_not_start(project, monkeypatch):
    """As on a machine that does not share the folder, where process 1 finds nothing."""
    train(config("Global.epochs=1"))
    first = read_manifest("output/latest").state
    answers = [[first.seed, *first.position, first.step, 1], [1.0]]
    monkeypatch.setattr("ppreplk.training.saving.sum_over_processes", lambda values: answers.pop(0))
    monkeypatch.setattr("ppreplk.training.saving.rank", lambda: 1)
    with refused("training.different-starts", "process 1 from the beginning", "output_dir"):
        Trainer(config(AUTO, "Global.output_dir=elsewhere"))


def test_a_folder_that_cannot_be_synced_is_saved_to(project, monkeypatch):
    """Some network file systems refuse it. A disk that fails is another thing."""
    fsync = os.fsync

    def refusing(number: int):
        def sync(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))
            fsync(descriptor)

        return sync

    monkeypatch.setattr(os, "fsync", refusing(errno.EINVAL))
    assert train(config("Global.epochs=1")).epoch == 1
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    with refused("training.cannot-write", os.strerror(errno.EIO)):
        train(config("Global.epochs=2", AUTO))
    assert read_manifest("output/latest").state.epoch == 1


def test_auto_names_no_weights(project):
    with refused("checkpoints.none-named", "Global.pretrained_model"):
        build_trained_network(load_config("config.yaml", [AUTO]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_with_the_code_of_the_signal(project, number):
    """Ctrl-C reaches all processes of a terminal, and a system ends all of a job: loader processes get it, too."""
    options = ["Global.epochs=10000", "DataLoader.Train.loader.num_workers=2", "Global.save_step_interval=2"]
    arguments = [part for option in options for part in ("-o", option)]
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "-c", "config.yaml", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        for line in process.stderr:
            if "batches of epoch 2" in line:
                os.killpg(process.pid, number)
                break
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 128 + number
    assert rest.splitlines()[-1] == {signal.SIGINT: "stopped", signal.SIGTERM: "ended by SIGTERM"}[number]
    assert "stopped; go on with -o Global.checkpoints=output/latest" in rest and "Traceback" not in rest
