"""The study of the guidelines: its runs, what they measure, what a stopped study keeps, tables with intervals."""

import csv

import numpy as np
import paddle
import pytest
from helpers import assert_one_line_and_exit_2, refused, run_tool

from ppreplk.analysis import guideline_study as guidelines
from ppreplk.analysis import guideline_tables as tables
from ppreplk.analysis.guideline_study import CLASSIFICATION, SEGMENTATION, TABLES, TASKS, Scenes, plan_guidelines
from ppreplk.analysis.intervals import interval, paired
from ppreplk.analysis.rows import ROWS
from ppreplk.cli.study_commands import GUIDELINE_TABLES


@pytest.fixture
def quick(monkeypatch):
    small = {"batch": 2, "steps": 2, "evaluated": 6}
    monkeypatch.setattr(guidelines, "TASKS", {name: task._replace(**small) for name, task in TASKS.items()})
    monkeypatch.setattr(guidelines, "WIDTH", 0.1)


def runs_of(task: str) -> list:
    return [run for run in plan_guidelines(TABLES, 1) if run.task == task]


def test_rows_with_the_same_network_share_their_runs():
    runs = plan_guidelines(TABLES, 2)
    assert len(runs) == len({run.name for run in runs}) == 2 * (11 + 3)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert {run.name for run in plan_guidelines((3, 11), 1)} < {run.name for run in runs}
    assert {run.row.label for run in runs_of(SEGMENTATION)} == {row.label for row in ROWS if row.table == 4}
    assert GUIDELINE_TABLES == TABLES


def test_only_what_the_paper_changes_differs_between_runs_of_a_task():
    changed = {"kernel_size", "small_kernel", "shortcut", "dilation", "large_kernel_blocks"}
    for task in TASKS:
        settings = [run.settings for run in runs_of(task)]
        kept = [{key: value for key, value in each.pop("network").items() if key not in changed} for each in settings]
        assert all(each == kept[0] for each in kept) and all(each == settings[0] for each in settings)


def test_a_longer_training_has_more_steps_and_other_settings():
    once, thrice = (plan_guidelines((2,), 1, longer)[0] for longer in (1, 3))
    assert thrice.steps == 3 * once.steps == thrice.settings["task"]["steps"] and once.name == thrice.name


def test_scenes_of_a_seed_are_the_same_for_every_network_and_made_once():
    scenes = Scenes()
    first, again = (list(scenes.batches(CLASSIFICATION, "train", 1, 10)) for _ in range(2))
    assert [images.shape for images, _ in first] == [[8, 1, 48, 48], [2, 1, 48, 48]]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(first, again))
    assert scenes._kept["train"][1] is not None and -1 <= float(first[0][0].min()) < float(first[0][0].max()) <= 1
    other = next(iter(scenes.batches(CLASSIFICATION, "train", 2, 10)))
    assert not np.array_equal(other[0].numpy(), first[0][0].numpy())
    images, masks = next(iter(scenes.batches(SEGMENTATION, "val", 0, 4)))
    assert images.shape == [4, 1, 96, 96] and masks.shape == (4, 96, 96) and masks.max() > 0


@pytest.mark.parametrize("task", TASKS)
def test_training_is_the_same_again_and_segments_or_classifies(quick, task):
    run = runs_of(task)[1]
    network, logits = guidelines.build_guideline(run)
    images, _ = next(iter(Scenes().batches(task, "train", 0, 2)))
    assert logits(images).shape == ([2, 11, 96, 96] if task == SEGMENTATION else [2, 10])
    score = guidelines.train_guideline(run, Scenes())
    assert 0 <= score <= 1 and guidelines.train_guideline(run, Scenes()) == score


def test_scores_are_counted_over_all_scenes(monkeypatch):
    always = paddle.nn.functional.one_hot(paddle.to_tensor([7]), 10)
    found = guidelines.evaluate_guideline(lambda images: always.tile([len(images), 1]), CLASSIFICATION, Scenes())
    labels = np.concatenate(
        [labels for _, labels in Scenes().batches(CLASSIFICATION, "val", 0, TASKS[CLASSIFICATION].evaluated)]
    )
    assert found == pytest.approx(np.mean(labels == 7))


def test_a_stopped_study_goes_on_and_writes_its_tables(tmp_path, monkeypatch, caplog):
    def train_some(run, scenes):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(run)
        return 0.5 + 0.1 * run.row.arguments.get("shortcut", True) + 0.01 * run.seed

    trained: list = []
    monkeypatch.setattr(guidelines, "train_guideline", train_some)
    output = str(tmp_path / "study")
    with pytest.raises(KeyboardInterrupt):
        guidelines.guideline_study((2,), 2, 1, output)
    trained.clear()
    with pytest.raises(KeyboardInterrupt):
        guidelines.guideline_study((2,), 2, 1, output)
    trained.clear()
    with caplog.at_level("INFO"):
        scores = guidelines.guideline_study((2,), 2, 1, output)
    assert "8 runs, 6 of them finished before" in caplog.text and "top-1 51.00%" in caplog.text
    written = tables.write_guidelines(scores, output)
    assert tables.read_guidelines(tmp_path / "study" / "guidelines.csv") == scores
    assert "\n".join(table.markdown() for table in written) == (tmp_path / "study" / "guidelines.md").read_text()
    assert [table.title[:7] for table in written] == ["Table 2", "What ea"]
    _, *lines = csv.reader((tmp_path / "study" / "guidelines.csv").open())
    assert lines[0] == ["table2_mbv2_3x3-classification-seed0", "3x3", "classification", "0", "1", "60.00"]
    with refused("analysis.other-settings", "a run with other settings"):
        guidelines.guideline_study((2,), 2, 2, output)
    (tmp_path / "study" / "guidelines.csv").write_text("run,score\nx,1\n")
    with refused("analysis.not-a-study", "not a table of the study"):
        tables.read_guidelines(tmp_path / "study" / "guidelines.csv")


def test_published_worths_are_differences_of_the_papers_tables():
    found = {(e.table, e.label, TASKS[task].measure): value for e in tables.EFFECTS for task, value in shown(e)}
    for key, expected in {
        (2, "the shortcut at 3x3", "top-1"): 3.09,
        (2, "the shortcut at 13x13", "top-1"): 18.55,
        (2, "at 13x13 more than at 3x3", "top-1"): 15.46,
        (3, "a 3x3 kernel beside 9x9", "top-1"): 0.42,
        (3, "a 3x3 kernel beside 13x13", "top-1"): 0.71,
        (4, "13x13 on the last maps", "mIoU"): 2.31,
        (11, "13x13 instead of dilation 6", "top-1"): 21.32,
    }.items():
        assert found[key] == pytest.approx(expected)


def shown(effect):
    return tables.effects_shown(effect)


def test_measured_worths_are_paired_by_seed_whatever_the_order():
    rng = np.random.default_rng(0)
    runs = plan_guidelines(TABLES, 4)
    rng.shuffle(runs)
    scores = {run: float(rng.uniform(20, 90)) for run in runs}

    def of(label: str) -> np.ndarray:
        row = tables.row_of(2, label)
        found = {
            run.seed: value
            for run, value in scores.items()
            if run.row.network == row.network and run.task == CLASSIFICATION
        }
        return np.array([found[seed] for seed in range(4)])

    difference = (of("13x13") - of("13x13, no shortcut")) - (of("3x3") - of("3x3, no shortcut"))
    (line,) = [line for line in tables.effect_table(scores).rows if line[1] == "at 13x13 more than at 3x3"]
    found = interval(difference.tolist())
    assert line[4] == found.text() and line[5] == tables.verdict(difference.tolist(), 15.46)
    simple = paired(of("3x3").tolist(), of("3x3, no shortcut").tolist())
    (line,) = [line for line in tables.effect_table(scores).rows if line[1] == "the shortcut at 3x3"]
    assert line[3:5] == ["+3.09", simple.text()]
    (table,) = [table for table in tables.score_tables(scores) if table.title.startswith("Table 2")]
    assert table.rows[0] == ["3x3", "71.76", interval(of("3x3").tolist()).text("")]


def test_two_seeds_decide_nothing_however_well_they_agree():
    assert tables.verdict([1.2, 1.2], 0.21) == tables.OPEN and tables.verdict([1.2, 1.2, 1.2], 0.21) == tables.CONFIRMED
    assert tables.verdict([1.2, 1.2, 1.2], -0.21) == tables.OPPOSITE and tables.verdict([5.0], 0.21) == tables.OPEN


def test_tables_that_lack_a_network_are_left_out():
    scores = {run: 50.0 for run in plan_guidelines((3,), 2)}
    assert [table.title[:7] for table in tables.score_tables(scores)] == ["Table 3"]
    assert {line[0] for line in tables.effect_table(scores).rows} == {"3"}


def test_a_loss_that_is_no_number_ends_the_study(quick, monkeypatch):
    task = guidelines.TASKS[CLASSIFICATION]._replace(rate=1e30, steps=10)
    monkeypatch.setattr(guidelines, "TASKS", {**guidelines.TASKS, CLASSIFICATION: task})
    with refused("analysis.diverged", "table2_mbv2_3x3-classification-seed0: the loss is"):
        guidelines.train_guideline(runs_of(CLASSIFICATION)[0], Scenes())


def test_the_command_refuses_other_tables_before_it_trains(tmp_path):
    process = run_tool("study", "guidelines", "--table", "5", cwd=tmp_path)
    assert_one_line_and_exit_2(process, "'5' is not known", code="command.arguments")
    assert list(tmp_path.iterdir()) == []
