"""Depthwise layers and training steps: ours are among the contestants; the figure."""

import csv

import pytest
from helpers import assert_one_line_and_exit_2, require_depthwise_operators, run_tool
from PIL import Image

from ppreplk.benchmark import table_one
from ppreplk.ops.training_layers import products_problem

FRAMEWORKS = ("torch", "ONNX Runtime", "OpenVINO")
LAYER = ["conv", "--kernel", "5", "--channels", "3", "--side", "6"]


def check_rows(tmp_path, arguments, contestants):
    """Run the command; whose rows there are, besides other frameworks."""
    require_depthwise_operators()
    process = run_tool("benchmark", *arguments, "--rounds", "1", "--output", "t.csv", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert {row["what"] for row in rows if not row["what"].startswith(FRAMEWORKS)} == contestants
    assert all(float(row["median ms"]) > 0 for row in rows)
    return process.stdout


def test_layers_and_the_figure(tmp_path):
    pytest.importorskip("matplotlib")
    arguments = [*LAYER, "--kernel", "3", "--figure", "f.png"]
    check_rows(tmp_path, arguments, {"native", "fft", "cpu", "cpu, packed"})
    with Image.open(tmp_path / "f.png") as figure:
        assert figure.size[0] > 500


def test_the_layers_of_table_1(monkeypatch):
    for name, value in {"SIDES": (6, 9), "KERNELS": (3, 7), "CHANNELS": 3}.items():
        monkeypatch.setattr(table_one, name, value)
    table = table_one.measure_table_one(1, 1)
    assert [row[0] for row in table.rows if row[1] == "native"] == ["6", "9"]
    assert table.columns == ["H=W", "what", "K=3", "K=7", "largest / smallest"] and table.notes == []
    for row in table.rows:
        small, large = sorted(float(cell) for cell in row[2:4])
        assert 0 <= small <= large and float(row[4]) >= 1
    assert "3 channels" in table.title and "fastest of 2 calls" in table.title


def test_table_1_stands_alone(tmp_path):
    process = run_tool("benchmark", "conv", "--table1", "--kernel", "5", cwd=tmp_path)
    assert_one_line_and_exit_2(process, "--table1 stands alone", code="command.arguments")


def test_a_training_step(tmp_path):
    arguments = ["train", "--name", "MobileNetV2LK", "--size", "32", "--batch", "2"]
    printed = check_rows(tmp_path, arguments, training_rows("fft", "cpu"))
    assert ("- without Paddle, channels-last fp32-bf16x3, which is not timed here: " in printed) == bool(problem())
    assert not problem() or problem() in printed


def problem():
    return products_problem("fp32-bf16x3")


def training_rows(*implementations):
    rows = {"Paddle, channels-last", *(f"Paddle, {name}" for name in implementations)}
    return rows if problem() else {*rows, "Paddle, channels-last fp32-bf16x3"}


@pytest.mark.slow  # 20 s: pytest -m slow tests/benchmark/test_benchmark_layers.py
def test_gradients_and_a_training_step_with_drop_path(tmp_path):
    check_rows(tmp_path, [*LAYER, "--backward"], {"native", "fft", "cpu"})
    arguments = ["train", "--name", "RepLKNet13T", "--size", "32", "--batch", "2", "--native"]
    check_rows(tmp_path, arguments, training_rows("native", "fft", "cpu"))
