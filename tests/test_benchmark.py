"""What the measurements say, not how fast anything is."""

import csv

import pytest
from conftest import ROOT, require_fast_operators, run_tool
from PIL import Image

from ppreplk.benchmark.timing import take_turns

PROGRAMS = [f"Paddle Inference, {form}" for form in ("native", "compiled", "fast", "fast bf16")]


def test_contestants_take_turns():
    order = []
    times = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, calls=2)
    assert order == ["a", "a", "a", "b", "b", "b"] * 2 and set(times) == {"a", "b"}
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


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["data", "-c", "none.yaml", "--output", "t.txt"], "written to a .md or .csv file, got t.txt"),
        (["conv", "--output", "missing/t.md"], "the folder of missing/t.md does not exist"),
        (["conv", "--kernel", "5", "--figure", "f.bmp"], "written to a .png or .svg file, got f.bmp"),
        (["conv", "--kernel", "4"], "odd K"),
        (["model", "--name", "RepLKNet31"], "unknown model 'RepLKNet31'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, message):
    process = run_tool("benchmark", *arguments, cwd=tmp_path)
    assert process.returncode == 2 and message in process.stderr.splitlines()[-1], process.stderr


def test_the_figure(tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ["--kernel", "3", "--kernel", "5", "--channels", "2", "--side", "6", "--rounds", "1"]
    process = run_tool("benchmark", "conv", *arguments, "--figure", "f.png", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    with Image.open(tmp_path / "f.png") as figure:
        assert figure.size[0] > 500


@pytest.mark.parametrize(
    "arguments, rows",
    [
        (["conv", "--kernel", "5", "--channels", "3", "--side", "6"], ["native", "fft", "compiled, packed"]),
        (["conv", "--kernel", "5", "--channels", "3", "--side", "6", "--backward"], ["native", "fft", "compiled"]),
        (
            ["model", "--name", "RepLKNet13T", "--size", "32", "--batch", "1", "--batch", "3", "--native"],
            ["Paddle, eager, native", *PROGRAMS],
        ),
        (
            ["train", "--name", "RepLKNet13T", "--size", "32", "--batch", "2", "--native"],
            ["Paddle, native", "Paddle, compiled"],
        ),
    ],
)
def test_ours_are_among_the_contestants(tmp_path, arguments, rows):
    require_fast_operators()
    process = run_tool("benchmark", *arguments, "--rounds", "1", "--output", "t.csv", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    columns, *received = csv.reader((tmp_path / "t.csv").open())
    names = [row[columns.index("what")] for row in received]
    assert set(rows) <= set(names)
    assert all(float(row[columns.index("median ms")]) >= 0 for row in received)
    if arguments[0] == "model":
        assert all(float(row[columns.index("difference")]) < 2e-2 for row in received)
        loaded = [row for row in received if row[columns.index("what")] in PROGRAMS]
        assert all(float(row[columns.index("memory MB")]) > 0 for row in loaded)
        batches = {value for option, value in zip(arguments, arguments[1:]) if option == "--batch"}
        assert {row[columns.index("batch")] for row in received} == (batches or {"1"})
