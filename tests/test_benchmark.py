"""What the measurements say, not how fast anything is."""

import csv

import pytest
from conftest import ROOT, run_tool

from ppreplk.benchmark.timing import take_turns


def test_contestants_take_turns():
    order = []
    times = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warmup=1)
    assert order == ["a", "b"] * 3 and set(times) == {"a", "b"}
    assert all(0 <= minimum <= median for minimum, median in times.values())


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


def test_a_table_goes_to_markdown_or_csv(tmp_path):
    process = run_tool("benchmark", "data", "-c", "none.yaml", "--output", "t.txt", cwd=tmp_path)
    assert process.returncode == 2 and ".md or .csv" in process.stderr.splitlines()[-1]
