"""The tool that compares effective receptive fields."""

import csv

import numpy as np
import paddle
import pytest
from helpers import assert_one_line_and_exit_2, run_tool

import ppreplk


def test_receptive_fields_of_ours_and_of_paddleclas(colour_project):
    pytest.importorskip("paddleclas")
    weights = colour_project / "some.pdparams"
    paddle.save(ppreplk.build_model("RepLKNet13T", class_num=7).state_dict(), str(weights))
    models = ["--model", f"RepLKNet13T={weights}", "--model", "ResNet18"]
    process = run_tool("erf", *models, "--images", "data", "--size", "96", "--limit", "3", cwd=colour_project)
    assert process.returncode == 0, process.stderr
    assert "ResNet18: no weights given" in process.stderr and "a head for 7 classes" in process.stderr
    output = colour_project / "output" / "erf"
    labels = ["RepLKNet13T_some", "ResNet18"]
    for label in labels:
        values = np.load(output / f"{label}.npy")
        assert values.shape == (96, 96) and values.min() >= 0 and np.isfinite(values).all()
        assert (output / f"{label}.png").read_bytes().startswith(b"\x89PNG")
    assert (output / "erf.png").is_file() and (output / "erf.md").read_text() in process.stdout
    columns, *lines = csv.reader((output / "erf.csv").open())
    shares = ["20%", "30%", "50%", "99%"]
    assert columns == ["network", *shares, *(f"plain {share}" for share in shares), "largest contribution"]
    assert [line[0] for line in lines] == labels
    for line, values in zip(lines, (np.load(output / f"{label}.npy") for label in labels)):
        area = ppreplk.erf.high_contribution_area(values, 0.5)[1]
        assert line[3] == f"{100 * area:.1f}" and float(line[1]) < float(line[4])
        plain = ppreplk.erf.high_contribution_area(values, 0.5, logarithm=False)[1]
        assert line[7] == f"{100 * plain:.1f}" and line[9] == f"{values.max():.1e}"
    with np.load(output / "erf.npz") as maps:
        assert [*maps] == labels and all(maps[label].shape == (96, 96) for label in labels)


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--model", "RepLKNet31", "--images", "data"], ["unknown model 'RepLKNet31'"]),
        (["--model", "RepLKNet13T=none.pth", "--images", "data"], ["no checkpoint at none.pth"]),
        (["--model", "RepLKNet13T", "--images", "nothing"], ["there is no image, folder or list nothing"]),
        (["--model", "RepLKNet13T", "--model", "RepLKNet13T", "--images", "data"], ["give each once"]),
        (["--model", "RepLKNet13T", "--images", "data", "--layer", "stem.9"], ["no layer 'stem.9'"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(colour_project, arguments, parts):
    assert_one_line_and_exit_2(run_tool("erf", *arguments, cwd=colour_project), *parts)
    assert not (colour_project / "output").exists()
