"""The study of fine-tuning: its images, its runs, what a stopped study keeps, its tables."""

import statistics
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


def test_without_scikit_image_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with refused("analysis.missing-package", "scikit-image", "pip install scikit-image"):
        sets.faces()


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The study with squares, one way and one network to compare."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune, "SETS", {"digits": squares})
    source = sets.ImageSet(squares().images, squares().labels, squares().names, np.arange(12) % 3 == 0)
    monkeypatch.setattr(tune, "source_digits", lambda: source)
    monkeypatch.setattr(tune, "SHOWN", 3)
    monkeypatch.setattr(tune, "BATCH", 3)
    monkeypatch.setattr(tune, "SOURCE_BATCH", 4)
    monkeypatch.setattr(tune, "SOURCE_EPOCHS", {tune.OURS: 1})
    monkeypatch.setattr(tune, "WAYS", [tune.Way(tune.OURS, tune.SOURCE, 1e-3, 1, 10, 0.7, 0.9)])
    ours = [tune.Way(tune.OURS, start, 1e-3, 2) for start in (tune.SCRATCH, tune.SOURCE)]
    monkeypatch.setattr(tune, "COMPARED", ours)
    monkeypatch.setattr(tune, "NETWORKS", (tune.OURS,))


def test_a_stopped_study_goes_on_and_writes_its_tables(small, caplog):
    first = tune.finetune_study(DIGITS_YAML, 1, "out", TINY)
    with caplog.at_level("INFO"):
        tables = tune.finetune_study(DIGITS_YAML, 2, "out", TINY)
    assert "7 runs, 4 of them finished before" in caplog.text
    ways, networks = tables
    assert [row[:4] for row in ways.rows] == [["0.001", "x 10", "0.7", "0.9"]]
    assert [row[:3] for row in networks.rows] == [
        ["RepLKNet13T", "scratch", "2"],
        ["RepLKNet13T", "digits 0 to 4", "2"],
    ]
    assert len(first) == 2
    text = (Path("out") / "finetune.md").read_text()
    assert all(table.markdown() in text for table in tables)


def test_the_best_rate_is_shown():
    scores = {
        tune.TuneRun("digits", way, seed): 50.0 + 10 * index + seed
        for index, way in enumerate(tune.COMPARED)
        for seed in range(3)
    }
    table = tune.table_of_networks(scores, 3)
    ways = [way for way in tune.COMPARED if (way.network, way.start) == (tune.BASELINE, tune.SCRATCH)]
    expected = [scores[tune.TuneRun("digits", ways[-1], seed)] for seed in range(3)]
    assert table.rows[0][4] == f"{statistics.mean(expected):.1f} ± {statistics.stdev(expected):.1f}"
    assert table.rows[0][3] == "0.0064 of 0.0004, 0.0016, 0.0064"


def test_every_run_has_a_name_of_its_own_and_a_configuration_that_loads(tmp_path):
    runs = tune.plan_finetuning(3)
    assert len(runs) == len({run.name for run in runs}) == 2 + 3 * (3 * len(tune.WAYS) + len(tune.COMPARED))
    for task in (tune.SOURCE, "digits"):
        sets.write_split(tune._images(tmp_path, task, 0), squares(), 3, 0)
    for run in runs:
        if run.task in (tune.SOURCE, "digits") and run.seed == 0:
            config = load_config(DIGITS_YAML, tune.run_overrides(run, tmp_path, DIGITS_YAML))
            assert config.Arch.class_num == 2 and config.Optimizer.name == "AdamW"
