"""Depthwise layers and training steps: ours are among the contestants; the figure."""

import csv

import pytest
from helpers import require_depthwise_operators, run_tool
from PIL import Image

FRAMEWORKS = ("torch", "ONNX Runtime", "OpenVINO")
LAYER = ["conv", "--kernel", "5", "--channels", "3", "--side", "6"]


@pytest.mark.parametrize(
    "arguments, contestants",
    [
        (LAYER, {"native", "fft", "cpu", "cpu, packed"}),
        ([*LAYER, "--backward"], {"native", "fft", "cpu"}),
        (
            ["train", "--name", "RepLKNet13T", "--size", "32", "--batch", "2", "--native"],
            {"Paddle, native", "Paddle, fft", "Paddle, cpu"},
        ),
        (["train", "--name", "MobileNetV2LK", "--size", "32", "--batch", "2"], {"Paddle, fft", "Paddle, cpu"}),
    ],
)
def test_ours_are_among_the_contestants(tmp_path, arguments, contestants):
    require_depthwise_operators()
    process = run_tool("benchmark", *arguments, "--rounds", "1", "--output", "t.csv", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert {row["what"] for row in rows if not row["what"].startswith(FRAMEWORKS)} == contestants
    assert all(float(row["median ms"]) > 0 for row in rows)


def test_the_figure(tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ["--kernel", "3", "--kernel", "5", "--channels", "2", "--side", "6", "--rounds", "1"]
    process = run_tool("benchmark", "conv", *arguments, "--figure", "f.png", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    with Image.open(tmp_path / "f.png") as figure:
        assert figure.size[0] > 500
