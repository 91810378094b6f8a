"""Receptive fields before and after training."""

import csv

import numpy as np
from helpers import assert_one_line_and_exit_2, run_tool

from ppreplk.analysis import dense_study as dense
from ppreplk.analysis import trained_field


def test_maps_before_and_after_training_are_those_of_one_network(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(dense, "EVALUATED", 4)
    monkeypatch.setattr(dense, "BATCH", 2)
    monkeypatch.setattr(dense, "ARCH", {**dense.ARCH, "layers": (1,), "channels": (8,)})
    monkeypatch.setattr(trained_field, "SCENES", 2)
    with caplog.at_level("INFO"):
        table = trained_field.field_study([9, 3], 3, str(tmp_path))
    assert [row[0] for row in table.rows] == [
        f"{k}, {when} training" for k in ("3x3", "9x9") for when in ("before", "after")
    ]
    assert "3x3: mIoU" in caplog.text
    with np.load(tmp_path / "field.npz") as file:
        maps = {name: file[name] for name in file.files}
    assert [*maps] == [row[0] for row in table.rows] and all(each.shape == (96, 96) for each in maps.values())
    assert all(each.max() == 1 and each.min() >= 0 for each in maps.values())
    assert not np.array_equal(maps["3x3, before training"], maps["3x3, after training"])
    wide = {name: (each > 0).sum() for name, each in maps.items()}
    assert wide["9x9, before training"] > wide["3x3, before training"]
    assert (tmp_path / "field.md").read_text() == table.markdown()
    assert [line[0] for line in csv.reader((tmp_path / "field.csv").open())][1:] == [*maps]


def test_the_command_refuses_what_is_no_kernel(tmp_path):
    process = run_tool("study", "field", "--kernel", "4", cwd=tmp_path)
    assert_one_line_and_exit_2(process, "got 4", code="nn.bad-kernel-size")
    assert list(tmp_path.iterdir()) == []
