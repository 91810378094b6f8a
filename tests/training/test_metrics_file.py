"""metrics.csv and the picture of the curves: what any tool plots, and what a resume leaves of it."""

import csv
import errno
import os
import sys
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
from helpers import refused
from PIL import Image
from runs import config

from ppreplk.training import Trainer, train
from ppreplk.training.curve_picture import draw_curves
from ppreplk.training.metrics_file import MetricsFile, Row, read_metrics

HEAD = "epoch,step,split,name,value\n"


def written(path: Path, resumed: Optional[int] = None) -> MetricsFile:
    return MetricsFile(path, resumed)


def test_one_row_for_each_number(project):
    train(config("Global.epochs=2", "Global.print_batch_step=2", EMA={"decay": 0.9}))
    with open("output/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "step", "split", "name", "value"]
    series = {(row["split"], row["name"]) for row in rows}
    numbers = ["top1", "top2", "CELoss", "loss"]
    splits = ["train", "train_epoch", "eval_raw", "eval_averaged"]
    assert series == {("train", "lr"), *((split, name) for split in splits for name in numbers)}
    steps = [int(row["step"]) for row in rows if (row["split"], row["name"]) == ("train", "loss")]
    assert steps == [1, 3, 4, 6]
    assert [row["step"] for row in rows if (row["split"], row["name"]) == ("eval_raw", "top1")] == ["3", "6"]
    places = [(row["step"], row["split"], row["name"]) for row in rows]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("frequency", [1, 3])
def test_a_killed_and_resumed_run_has_the_same_rows(project, monkeypatch, frequency):
    """Killed in the second epoch after its log line, with half a line written: nothing is lost, nothing is twice."""
    small = ["DataLoader.Train.sampler.batch_size=2", f"Global.update_freq={frequency}", "Global.print_batch_step=2"]
    train(config("Global.output_dir=whole", *small))
    parts = ["Global.output_dir=parts", "Global.save_step_interval=1", *small]
    trainer = Trainer(config(*parts))
    add = trainer.stepper.train_batch

    def killed(epoch, iteration, *batch):
        if (epoch, iteration) == (2, 5):
            raise SystemError("killed")
        return add(epoch, iteration, *batch)

    trainer.stepper.train_batch = killed
    with pytest.raises(SystemError):
        trainer.fit()
    with open("parts/metrics.csv", "a") as file:
        file.write("2,14,train,lo")
    train(config("Global.checkpoints=parts/latest", *parts))
    assert Path("parts/metrics.csv").read_bytes() == Path("whole/metrics.csv").read_bytes()


def test_a_resume_drops_later_rows_and_mends_the_last_line(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(HEAD + "1,3,eval,top1,0.25\n1,4,train,lr,0.1\nscribble\n1,3,train_epoch,loss,2.0\n1,3,eval,lo")
    file = written(path, resumed=3)
    file.add(1, 3, "eval", {"top1": 0.5, "loss": 1.5})
    file.add(2, 4, "train", {"lr": 1 / 3})
    file.close()
    expected = "1,3,eval,top1,0.25\n1,3,train_epoch,loss,2.0\n1,3,eval,loss,1.5\n2,4,train,lr,0.3333333333333333\n"
    assert path.read_text() == HEAD + expected
    assert read_metrics(path)[-1] == Row(2, 4, "train", "lr", 1 / 3)


def test_a_new_run_begins_a_new_file(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(HEAD + "1,3,eval,top1,0.25\n")
    written(path).close()
    assert path.read_text() == HEAD


def test_numbers_of_the_resumed_run_in_another_folder_begin_there(project):
    train(config("Global.epochs=1", "Global.output_dir=first"))
    train(config("Global.epochs=2", "Global.output_dir=second"))
    train(config("Global.epochs=2", "Global.output_dir=second", "Global.checkpoints=first/latest"))
    assert {row.epoch for row in read_metrics(Path("second/metrics.csv"))} == {2}


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    file = written(tmp_path / "metrics.csv")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with refused("training.cannot-write", "metrics.csv", "No space left on device"):
        file.add(1, 1, "train", {"lr": 0.1})


def test_the_picture_shows_training_and_both_evaluations(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        Row(epoch, 10 * epoch, split, name, value / epoch)
        for epoch in range(1, 5)
        for split, value in {"train": 1.0, "train_epoch": 1.0, "eval_raw": 0.9, "eval_averaged": 0.8}.items()
        for name in ("loss", "top1", "top5", "lr")
    ]
    draw_curves(rows, 10, tmp_path / "curves.png")
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).astype(int)
    for colour in [(127, 127, 127), (31, 119, 180), (255, 127, 14)]:  # training, raw and averaged weights
        assert (np.abs(pixels - colour).max(axis=-1) < 8).sum() > 50
    draw_curves([], 10, tmp_path / "nothing.png")
    assert not (tmp_path / "nothing.png").exists()


def test_a_training_draws_its_curves_at_the_end(colour_project, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(colour_project)
    train(config("Global.epochs=2"))
    assert Image.open("output/curves.png").size[0] > 1000


def test_without_matplotlib_one_line_says_so(colour_project, monkeypatch, caplog):
    monkeypatch.chdir(colour_project)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    train(config("Global.epochs=1"))
    lines = [record.getMessage() for record in caplog.records if "curves.png" in record.getMessage()]
    assert len(lines) == 1 and "matplotlib" in lines[0]
