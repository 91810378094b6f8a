"""The study of fine-tuning: its images, its runs, what a stopped study keeps, its tables."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, refused

from ppreplk.analysis import finetune_sets as sets
from ppreplk.analysis import finetune_study as tune
from ppreplk.config import load_config

DIGITS_YAML = str(ROOT / "configs" / "digits.yaml")
TINY = ["Arch.layers=[1]", "Arch.channels=[4]", "Arch.large_kernel_sizes=[5]"]


def squares(count: int = 6) -> sets.ImageSet:
    """Dark and light squares."""
    labels = np.repeat([0, 1], count)
    levels = (labels * 200 + np.arange(2 * count)).astype(np.uint8)
    return sets.ImageSet(np.tile(levels[:, None, None], (1, 8, 8)), labels, ["dark", "light"])


def test_digits_are_numbered_like_their_folders():
    images = sets.other_digits()
    assert images.names == ["eight", "five", "nine", "seven", "six"]
    assert images.images.shape == (896, 8, 8) and images.images.max() == 255
    assert np.bincount(images.labels).tolist() == [174, 182, 180, 179, 181]


def test_faces_and_textures():
    pytest.importorskip("skimage")
    faces, textures = sets.faces(), sets.textures()
    assert faces.images.shape == (200, 25, 25) and np.bincount(faces.labels).tolist() == [100, 100]
    assert textures.images.shape == (768, 32, 32) and textures.held_out.sum() == 384
    assert all(np.bincount(textures.labels[textures.held_out]) == 128)


def test_images_are_drawn_by_seed_and_never_for_both(tmp_path):
    for seed in (0, 0, 1):
        sets.write_split(tmp_path / f"seed{seed}", squares(), 2, seed)
    drawn = {seed: sorted(path.name for path in (tmp_path / f"seed{seed}/train").rglob("*.png")) for seed in (0, 1)}
    others = sorted(path.name for path in (tmp_path / "seed0/val").rglob("*.png"))
    assert len(drawn[0]) == 4 and drawn[0] != drawn[1]
    assert len(others) == 8 and not set(others) & set(drawn[0])
    held_out = sets.ImageSet(*list(vars(squares()).values())[:3], np.arange(12) % 3 == 0)
    sets.write_split(tmp_path / "held", held_out, None, 0)
    assert len(list((tmp_path / "held/val").rglob("*.png"))) == 4
    assert len(list((tmp_path / "held/train").rglob("*.png"))) == 8


def test_tests_are_the_same_images_in_every_draw_and_no_image_is_in_two_parts(tmp_path):
    parts = {}
    for seed in (0, 1):
        sets.write_three_parts(tmp_path / f"seed{seed}", squares(10), 2, seed)
        for part in (sets.TRAIN, sets.VAL, sets.TEST):
            parts[part, seed] = {path.name for path in (tmp_path / f"seed{seed}" / part).rglob("*.png")}
        assert [len(parts[part, seed]) for part in (sets.TRAIN, sets.VAL, sets.TEST)] == [4, 6, 10]
        assert len(set().union(*(parts[part, seed] for part in (sets.TRAIN, sets.VAL, sets.TEST)))) == 20
    assert parts[sets.TEST, 0] == parts[sets.TEST, 1] and parts[sets.TRAIN, 0] != parts[sets.TRAIN, 1]


def test_without_scikit_image_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with refused("analysis.missing-package", "scikit-image", "pip install scikit-image"):
        sets.faces()


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The study with squares, one way, and one network from two starts to compare, with one rate each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune, "SETS", {"digits": squares})
    monkeypatch.setattr(tune, "other_digits", lambda: squares(10))
    source = sets.ImageSet(squares().images, squares().labels, squares().names, np.arange(12) % 3 == 0)
    monkeypatch.setattr(tune, "source_digits", lambda: source)
    monkeypatch.setattr(tune, "SHOWN", 3)
    monkeypatch.setattr(tune, "BATCH", 3)
    monkeypatch.setattr(tune, "SOURCE_BATCH", 4)
    monkeypatch.setattr(tune, "SOURCE_EPOCHS", {tune.SMALL: 1, tune.OURS: 1})
    monkeypatch.setattr(tune, "WAYS", [tune.Way(tune.SMALL, tune.SOURCE, 1e-3, 1, 10, 0.7, 0.9)])
    starts = (tune.SCRATCH, tune.SOURCE)
    tried = {(tune.OURS, start): [tune.Way(tune.OURS, start, 1e-3, 2, affine=True)] for start in starts}
    monkeypatch.setattr(tune, "TRIED", tried)
    monkeypatch.setattr(tune, "NETWORKS", (tune.OURS,))


def test_a_stopped_study_goes_on_and_writes_its_tables(small, caplog):
    first = tune.finetune_study(DIGITS_YAML, 1, "out", TINY)
    with caplog.at_level("INFO"):
        tables = tune.finetune_study(DIGITS_YAML, 2, "out", TINY)
    assert "8 runs, 5 of them finished before" in caplog.text  # two sources, a way and two starts
    assert "8 runs, 6 of them finished before" in caplog.text  # two of the second draw are left, twice as long
    ways, networks, differences = tables
    assert [row[:5] for row in ways.rows] == [["0.001", "x 10", "0.7", "0.9", "cropped"]]
    assert [row[:3] for row in networks.rows] == [
        ["RepLKNet13T-wide", "scratch", "2"],
        ["RepLKNet13T-wide", "digits 0 to 4", "2"],
        ["RepLKNet13T-wide", "scratch", "4"],
        ["RepLKNet13T-wide", "digits 0 to 4", "4"],
    ]
    assert [row[:4] for row in differences.rows] == [
        ["RepLKNet13T-wide", "scratch", "shorter", "2 and 2"],
        ["RepLKNet13T-wide", "scratch", "longer", "4 and 4"],
        ["RepLKNet13T-wide", "scratch", "best on validation", differences.rows[2][3]],
    ]
    assert len(first) == 3 and first[2].rows[0][5] == "", "no interval of one draw"
    text = (Path("out") / "finetune.md").read_text()
    assert all(table.markdown() in text for table in tables)
    run = tune.TuneRun(tune.COMPARED, tune.TRIED[tune.OURS, tune.SOURCE][0], 1)
    assert {"top1", "test"} <= set(json.loads((Path("out") / "runs" / f"{run.name}.json").read_text()))


def test_a_rate_is_chosen_on_validation_images_and_shown_on_test_images():
    ways, results, percent = [way for tried in tune.TRIED.values() for way in tried], {}, {}
    for index, way in enumerate(ways):
        for seed in range(3):
            run = tune.TuneRun(tune.COMPARED, way, seed)
            validation, test = 0.9 - 0.1 * (index % 3 - 1) ** 2, 0.5 + 0.1 * (index % 3) + 0.01 * index * seed
            results[run.name] = {"top1": validation, "test": test}
            percent |= {(run, "top1"): 100 * validation, (run, "test"): 100 * test}
    chosen = tune.chosen_ways(results)
    assert chosen == [tried[1] for tried in tune.TRIED.values()], "the highest validation, not the highest test"
    scores = {"top1": (95.0, 70.0, 70.0), "test": (70.0, 69.0, 72.0)}  # by network and start
    for index, way in enumerate(tune.longer(chosen)):
        percent |= {
            (tune.TuneRun(tune.COMPARED, way, seed), part): scores[part][index] for seed in range(3) for part in scores
        }
    table, differences = tune.table_of_networks(percent, chosen), tune.table_of_differences(percent, chosen)
    rates = "0.0016 of 0.0004, 0.0016, 0.0064"
    assert table.rows[0] == ["ResNet18", "scratch", "30", rates, "90.0 ± 0.0", "61.0 ± 1.0", "60.0 to 62.0"]
    assert table.rows[3] == ["ResNet18", "scratch", "60", rates, "95.0 ± 0.0", "70.0 ± 0.0", "70.0 to 70.0"]
    half = 4.30265 * 6.0 / math.sqrt(3)  # of 0, 6 and 12 points; the two-sided quantile of t with 2 degrees of freedom
    extent = f"{6 - half:+.2f} to {6 + half:+.2f}"
    assert differences.rows[0] == ["ResNet18", "scratch", "shorter", "150 and 30", "+6.00", extent, "2 and 0"]
    alike = ["+3.00", "+3.00 to +3.00", "3 and 0"]
    assert differences.rows[3] == ["ResNet18", "digits 0 to 4", "longer", "300 and 60", *alike]
    # 60 epochs are better for the one from scratch alone, on validation images
    assert [row[:5] for row in differences.rows[4:]] == [
        ["ResNet18", "scratch", "best on validation", "150 and 60", "-3.00"],
        ["ResNet18", "digits 0 to 4", "best on validation", "150 and 30", differences.rows[1][4]],
    ]


def test_every_run_has_a_name_of_its_own_and_a_configuration_that_loads(tmp_path):
    runs = list(dict.fromkeys([*tune.plan_ways(3), *tune.plan_choice(10)]))
    assert len(runs) == len({run.name for run in runs}) == 3 + 3 * 3 * len(tune.WAYS) + 2 * 9
    for task in (tune.SOURCE, "digits"):
        sets.write_split(tune._images(tmp_path, task, 0), squares(), 3, 0)
    sets.write_three_parts(tune._images(tmp_path, tune.COMPARED, 0), squares(10), 3, 0)
    for run in runs:
        if run.task in (tune.SOURCE, "digits", tune.COMPARED) and run.seed == 0:
            config = load_config(DIGITS_YAML, tune.run_overrides(run, tmp_path, DIGITS_YAML))
            assert config.Arch.class_num == 2 and config.Optimizer.name == "AdamW"
            names = [op.name for op in config.DataLoader.Train.dataset.transform_ops]
            assert ("RandomAffine" in names) == run.way.affine != ("RandomResizedCrop" in names)
