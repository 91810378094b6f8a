"""Guideline 4 at small scale: the runs, what they measure, what a stopped study keeps, the table."""

import csv

import numpy as np
import paddle
import pytest
from helpers import assert_one_line_and_exit_2, refused, run_tool

from ppreplk.analysis import dense_study as dense
from ppreplk.analysis.dense_study import CONTROL, SEGMENTATION, DenseRun, build_dense, dense_table, plan_dense
from ppreplk.data.digit_scenes import SceneMaker


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(dense, "EVALUATED", 6)
    monkeypatch.setattr(dense, "BATCH", 2)
    monkeypatch.setattr(dense, "ARCH", {**dense.ARCH, "layers": (1,), "channels": (8,)})


def test_runs_are_ordered_by_seed_and_differ_in_kernel_and_task_alone():
    runs = plan_dense([13, 3, 13], 2, 10)
    assert [run.seed for run in runs] == [0] * 4 + [1] * 4 and len({run.name for run in runs}) == 8
    assert [run.name for run in runs[:2]] == ["segmentation_3x3-seed0", "control_3x3-seed0"]
    settings = [run.settings for run in runs[:4]]
    assert {(each.pop("task"), each.pop("kernel")) for each in settings} == {
        (task, kernel) for task in (SEGMENTATION, CONTROL) for kernel in (3, 13)
    }
    assert all(each == settings[0] for each in settings)


def test_both_tasks_have_the_same_backbone():
    shapes = {}
    for task in (SEGMENTATION, CONTROL):
        network, logits = build_dense(DenseRun(task, 5, 0, 1))
        images = dense.to_input(list(SceneMaker("train").scenes(2)))
        assert images.shape == [2, 3, 96, 96] and -1 <= float(images.min()) < float(images.max()) <= 1
        assert logits(images).shape == ([2, 11, 96, 96] if task == SEGMENTATION else [2, 10])
        names = {name.removeprefix("0."): tuple(value.shape) for name, value in network.state_dict().items()}
        shapes[task] = {name: shape for name, shape in names.items() if name.startswith(("stem", "stages"))}
    assert shapes[SEGMENTATION] == shapes[CONTROL] and len(shapes[CONTROL]) > 50


def test_training_learns_and_a_seed_gives_the_same_result(quick):
    untrained, trained = (dense.train_dense(DenseRun(SEGMENTATION, 3, 0, steps)) for steps in (1, 40))
    assert 0 <= untrained < trained < 1
    assert dense.train_dense(DenseRun(SEGMENTATION, 3, 0, 40)) == trained
    assert 0 <= dense.train_dense(DenseRun(CONTROL, 3, 0, 2)) <= 1


def test_miou_is_over_all_classes_and_top1_over_all_scenes(monkeypatch):
    monkeypatch.setattr(dense, "EVALUATED", 60)

    def background(images):
        return paddle.concat([paddle.ones([len(images), 1, 96, 96]), paddle.zeros([len(images), 10, 96, 96])], axis=1)

    share = np.mean([(scene.mask == 0).mean() for scene in SceneMaker("val").scenes(60)])
    assert dense.evaluate_dense(background, SEGMENTATION) == pytest.approx(share / 11)
    sevens = np.mean([scene.digits[0] == 7 for scene in SceneMaker("val", most=1).scenes(60)])
    always = paddle.nn.functional.one_hot(paddle.to_tensor([7]), 10)
    assert dense.evaluate_dense(lambda images: always.tile([len(images), 1]), CONTROL) == pytest.approx(sevens)
    assert 0 < sevens < 0.3


def test_a_stopped_study_goes_on_and_writes_its_table(quick, tmp_path, monkeypatch, caplog):
    def train_some(run):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(run)
        return 0.1 * run.kernel + 0.01 * run.seed

    trained: list = []
    monkeypatch.setattr(dense, "train_dense", train_some)
    arguments = ([3, 5], 2, 4, str(tmp_path / "dense"))
    with pytest.raises(KeyboardInterrupt):
        dense.dense_study(*arguments)
    assert len(list((tmp_path / "dense" / "runs").iterdir())) == 3 and not (tmp_path / "dense" / "dense.md").exists()
    trained.clear()
    with pytest.raises(KeyboardInterrupt):
        dense.dense_study(*arguments)
    trained.clear()
    with caplog.at_level("INFO"):
        table = dense.dense_study(*arguments)
    assert "8 runs, 6 of them finished before" in caplog.text and len(trained) == 2
    assert "control_5x5-seed1: top-1 51.00%" in caplog.text
    assert table.markdown() == (tmp_path / "dense" / "dense.md").read_text()
    columns, *lines = csv.reader((tmp_path / "dense" / "dense.csv").open())
    assert columns == ["run", "task", "kernel", "seed", "score"] and len(lines) == 8
    assert lines[0] == ["segmentation_3x3-seed0", "segmentation", "3", "0", "30.00"]
    with refused("analysis.other-settings", "a run with other settings"):
        dense.dense_study([3, 5], 2, 5, arguments[3])
    (tmp_path / "dense" / "runs" / "control_3x3-seed0.json").write_text("[]")
    with refused("analysis.not-a-result", "control_3x3-seed0.json", "delete it"):
        dense.dense_study(*arguments)


def test_the_table_has_means_and_paired_differences():
    scores = {
        DenseRun(task, kernel, seed, 300): value
        for task, kernel, values in [
            (SEGMENTATION, 3, [30.0, 40.0]),
            (SEGMENTATION, 13, [61.0, 69.0]),
            (CONTROL, 3, [80.0, 70.0]),
            (CONTROL, 13, [79.0, 73.0]),
        ]
        for seed, value in enumerate(values)
    }
    table = dense_table(scores)
    assert table.rows == [  # of two values, half the interval is 12.706 times half their distance
        ["3x3", "35.0 ± 63.5", "", "75.0 ± 63.5", ""],
        ["13x13", "65.0 ± 50.8", "+30.0 ± 12.7", "76.0 ± 38.1", "+1.0 ± 25.4"],
    ]
    assert table.columns[2] == table.columns[4] == "against 3x3" and "300 steps" in table.title
    one = dense_table({run: score for run, score in scores.items() if run.seed == 0})
    assert one.rows[1][2] == "+31.0" and "1 seed;" in one.title


def test_a_loss_that_is_no_number_ends_the_study(quick, monkeypatch):
    monkeypatch.setattr(dense, "LEARNING_RATE", 1e30)
    with refused("analysis.diverged", "segmentation_3x3-seed0: the loss is"):
        dense.train_dense(DenseRun(SEGMENTATION, 3, 0, 10))


def test_the_command_refuses_what_is_no_kernel_before_it_trains(tmp_path):
    for arguments, code, part in [
        (["--kernel", "4"], "nn.bad-kernel-size", "got 4"),
        (["--kernel", "0"], "command.arguments", "from 1 on"),
        (["--steps", "x"], "command.arguments", "from 1 on"),
    ]:
        process = run_tool("study", "dense", *arguments, cwd=tmp_path)
        assert_one_line_and_exit_2(process, part, code=code)
    assert list(tmp_path.iterdir()) == []
