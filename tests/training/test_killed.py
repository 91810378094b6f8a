"""Killed at any moment and gone on with, a training ends bit for bit like one that was not disturbed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

from ppreplk.checkpoints.files import load_arrays
from ppreplk.training.checkpoint_files import read_manifest

TESTS = ROOT / "tests"


def kill(project: Path, kills: int, seed: int) -> dict:
    paths = [str(TESTS), str(TESTS / "training"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(TESTS / "training" / "killing.py"),
        str(project),
        str(kills),
        str(seed),
    ]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120 + 10 * kills)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def assert_same(expected: Path, received: Path) -> None:
    """All files of two checkpoints hold the same bits, and their trainings are at the same place."""
    first, second = read_manifest(expected), read_manifest(received)
    assert first.state == second.state
    assert set(first.digests) == set(second.digests) == {".pdparams", ".pdema", ".pdopt"}
    for suffix in first.digests:
        assert_same_bits(load_arrays(f"{expected}{suffix}"), load_arrays(f"{received}{suffix}"), suffix)


def assert_same_bits(first, second, where: str) -> None:
    if isinstance(first, dict):
        assert set(first) == set(second), where
        for name in first:
            assert_same_bits(first[name], second[name], f"{where} {name}")
    else:
        first, second = np.asarray(first), np.asarray(second)
        assert first.dtype == second.dtype and first.tobytes() == second.tobytes(), where


def averages(folder: Path) -> set[str]:
    """The log's lines with averages over an epoch, each once however often it was written."""
    return set(re.findall(r"\[(?:Train|Eval)\].*(?:\[Avg\]|\[best metric).*", (folder / "train.log").read_text()))


def check(project: Path, kills: int, seed: int) -> None:
    seen = kill(project, kills, seed)
    assert sum(seen["kills"].values()) == kills and seen["while_writing"] >= kills // 10, seen
    assert seen["processes"] == [] and seen["shared"] == [], seen
    whole = project / "whole"
    assert len(averages(whole)) == 3 + 6 + 3
    for run in seen["runs"]:
        folder = project / run
        assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
        for name in ("latest", "best_model", "epoch_2", "epoch_3"):
            assert_same(whole / name, folder / name)
        assert averages(folder) == averages(whole)


def test_killed_at_thirty_moments(colour_project):
    """With and without loader processes, EMA, gradients of several batches, checkpoints inside an epoch."""
    check(colour_project, 30, seed=0)


@pytest.mark.slow
def test_killed_at_two_hundred_moments(colour_project):
    """``python -m pytest -m slow tests/training/test_killed.py``"""
    check(colour_project, 200, seed=1)
