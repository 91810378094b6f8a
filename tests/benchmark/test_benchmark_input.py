"""The speed of the input: what is measured, and on which images."""

import csv

import pytest
from helpers import ROOT, run_tool


@pytest.mark.parametrize("name, source", [("digits", "train_list.txt"), ("replknet31b", "photographs, 500x375")])
def test_input_speed(tmp_path, name, source):
    config = ["-c", ROOT / "configs" / f"{name}.yaml", "--rounds", "1", "--images", "8"]
    process = run_tool("benchmark", "data", *config, "--output", "t.csv", "--output", "t.md", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert source in process.stdout.splitlines()[0]
    assert (tmp_path / "t.md").read_text() in process.stdout
    columns, *rows = csv.reader((tmp_path / "t.csv").open())
    assert [row[0] for row in rows][:2] == ["this configuration", "plain decode and resize (bicubic)"]
    assert all(float(row[columns.index("median")]) > 0 for row in rows)
