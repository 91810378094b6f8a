"""The command-line tools as processes: the main job end to end, and how errors end."""

import os
import re
import stat
import subprocess
import sys

import pytest
from helpers import ROOT, assert_one_line_and_exit_2, require_channels_last_operators, run_tool

DIGITS = ["-c", ROOT / "configs" / "digits.yaml"]


def predictions(text: str) -> dict[str, str]:
    """{image: likeliest class} from what tools/infer.py prints."""
    return {line.split(": ")[0]: line.split(": ")[1].split()[0] for line in text.splitlines()}


def test_train_evaluate_export_predict(colour_project):
    base = ["-c", "config.yaml"]
    trained = run_tool("train", *base, "-o", "Global.epochs=2", cwd=colour_project)
    assert trained.returncode == 0, trained.stderr
    assert re.search(r"device cpu with \d+ math threads?", trained.stderr)
    weights = ["-o", "Global.pretrained_model=output/best_model"]
    evaluated = run_tool("eval", *base, *weights, cwd=colour_project)
    assert evaluated.returncode == 0 and "top1: " in evaluated.stderr
    exported = run_tool("export", *base, *weights, cwd=colour_project)
    assert exported.returncode == 0 and "largest difference of the logits" in exported.stderr
    by_weights = run_tool("infer", *base, *weights, cwd=colour_project)
    by_program = run_tool("infer", *base, "--model-dir", "inference", cwd=colour_project)
    assert by_weights.returncode == by_program.returncode == 0
    assert len(predictions(by_weights.stdout)) == 24
    assert predictions(by_weights.stdout) == predictions(by_program.stdout)


@pytest.mark.parametrize(
    "tool, arguments, parts",
    [
        ("train", ["-o", "Global.epoch=1"], ["Global.epoch: unknown key", "epochs"]),
        ("train", ["-o", "Arch.name=RepLKNet13"], ["Arch.name", "RepLKNet13T"]),
        ("eval", [], ["Global.pretrained_model is not set"]),
        ("export", ["-o", "Global.pretrained_model=nothing"], ["no checkpoint at nothing"]),
        ("infer", ["--model-dir", "nothing"], ["no exported program in nothing"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(colour_project, tool, arguments, parts):
    process = run_tool(tool, "-c", "config.yaml", *arguments, cwd=colour_project)
    assert_one_line_and_exit_2(process, *parts)
    assert not (colour_project / "output").exists() and not (colour_project / "inference").exists()


@pytest.mark.parametrize(
    "tool, arguments, parts",
    [
        ("train", [], ["-c/--config"]),
        ("export", ["-c", "config.yaml", "--precision", "fp16"], ["--precision", "'fp16'", "did you mean bf16"]),
        ("benchmark", ["conv", "--rounds", "0"], ["--rounds", "a whole number from 1 on", "'0'"]),
        ("benchmark", ["conv", "--rounds", "few"], ["--rounds", "a whole number from 1 on", "'few'"]),
        ("complexity", ["part"], ["'part'", "did you mean parts"]),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(tmp_path, tool, arguments, parts):
    process = run_tool(tool, *arguments, cwd=tmp_path)
    assert_one_line_and_exit_2(process, *parts, "--help", code="command.arguments")
    assert "usage" not in process.stderr


def test_imagenet_recipe_without_the_data_says_what_to_do(tmp_path):
    process = run_tool("train", "-c", ROOT / "configs" / "replknet31b.yaml", cwd=tmp_path)
    parts = ["./dataset/ILSVRC2012/train_list.txt", str(tmp_path), "path label", "configs/digits.yaml"]
    assert_one_line_and_exit_2(process, *parts)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(colour_project):
    (colour_project / "output").mkdir()
    (colour_project / "output").chmod(stat.S_IREAD | stat.S_IEXEC)
    process = run_tool("train", "-c", "config.yaml", cwd=colour_project)
    assert_one_line_and_exit_2(process, "output cannot be written to")


def test_the_digits_are_learnt_the_same_way_twice(tmp_path):
    """The first epoch: it is all warm-up, whatever number of epochs follow."""
    results = []
    for epochs in (1, 2):
        options = ["-o", f"Global.epochs={epochs}", "-o", "Optimizer.lr.learning_rate=2e-3"]
        process = run_tool("train", *DIGITS, *options, cwd=tmp_path)
        assert process.returncode == 0, process.stderr
        results.append(re.findall(r"\[Eval\]\[Epoch \d\]\[Avg\].*", process.stderr))
    (first,), (again, second) = results
    assert first == again
    assert float(re.search(r"top1: ([\d.]+)", second)[1]) > 0.25


@pytest.mark.slow
def test_the_digits_run(tmp_path):
    """python -m pytest -m slow tests/cli/test_tools.py: trains in full, exports, compares every held-out prediction."""
    trained = run_tool("train", *DIGITS, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert float(re.findall(r"best metric: ([\d.]+)", trained.stderr)[-1]) >= 0.97
    weights = ["-o", "Global.pretrained_model=output/digits/best_model"]
    assert run_tool("export", *DIGITS, *weights, cwd=tmp_path).returncode == 0
    held_out = ["-o", "Infer.infer_imgs=dataset/digits/val_list.txt"]
    by_weights = run_tool("infer", *DIGITS, *weights, *held_out, cwd=tmp_path)
    by_program = run_tool("infer", *DIGITS, *held_out, "--model-dir", "inference/digits", cwd=tmp_path)
    assert len(predictions(by_weights.stdout)) == 360
    assert predictions(by_weights.stdout) == predictions(by_program.stdout)
    require_channels_last_operators()
    channels_last = ["-o", "Global.export_runtime=channels_last", "--precision", "bf16"]
    exported = run_tool("export", *DIGITS, *weights, *channels_last, cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    same = [int(count) for count in re.findall(r"the same class comes first for (\d+) of 360", exported.stderr)]
    assert same[0] == 360 and same[1] >= 0.99 * 360  # float32, bfloat16
    channels_last_program = run_tool("infer", *DIGITS, *held_out, "--model-dir", "inference/digits", cwd=tmp_path)
    bfloat16 = predictions(channels_last_program.stdout)
    assert len(bfloat16) == 360, channels_last_program.stderr
    channels_last[-1] = "int8"
    exported = run_tool("export", *DIGITS, *weights, *channels_last, cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert "calibrating on 128 images of DataLoader.Train" in exported.stderr
    integers = run_tool("infer", *DIGITS, *held_out, "--model-dir", "inference/digits", cwd=tmp_path)
    int8 = predictions(integers.stdout)
    assert bfloat16.keys() == int8.keys()
    assert sum(int8[image] == bfloat16[image] for image in int8) >= 0.99 * 360


NAMES_PULLED_IN = """
import sys
import ppreplk

assert "paddle" not in sys.modules
for name in ppreplk.__all__:
    getattr(ppreplk, name)
print([name for name in ("paddleclas", "sklearn", "matplotlib") if name in sys.modules])
"""


def test_importing_the_package_pulls_in_little():
    command = [sys.executable, "-c", NAMES_PULLED_IN]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.stdout.strip() == "[]" and not process.stderr.strip()
