"""The paper's tables at small scale: the runs, what a stopped study keeps, the report."""

import copy
import csv
import sys

import numpy as np
import pytest
from helpers import ROOT, assert_one_line_and_exit_2, colour_config, refused, run_tool, write_config

from ppreplk.analysis import small_study as small
from ppreplk.analysis.rows import ROWS, TABLES


@pytest.fixture
def project(colour_project):
    """The coloured images under a configuration with the transforms of configs/digits.yaml."""
    config = copy.deepcopy(colour_config())
    config["DataLoader"]["Train"]["dataset"]["transform_ops"][1] = {"RandomResizedCrop": {"size": 32}}
    config["DataLoader"]["Eval"]["sampler"]["batch_size"] = 3
    write_config(colour_project / "config.yaml", config)
    return colour_project


def test_rows_with_the_same_network_share_their_runs():
    runs = small.plan(TABLES, 2)
    assert len(runs) == len({run.name for run in runs}) == 2 * len({row.network for row in ROWS}) == 32
    assert [run.seed for run in runs] == [0] * 16 + [1] * 16
    names = {run.name for run in runs}
    assert {run.name for run in small.plan((3, 11), 1)} <= names, "the name does not depend on the chosen tables"


def test_only_what_the_paper_changes_differs_between_rows():
    configs = {run.name: small.resolved(run, ROOT / "configs" / "digits.yaml") for run in small.plan((2, 3, 4, 11), 1)}
    architectures = [config.pop("Arch") for config in configs.values()]
    assert all(config == next(iter(configs.values())) for config in configs.values())
    changed = {"kernel_size", "small_kernel", "shortcut", "dilation", "large_kernel_blocks"}
    kept = [{key: value for key, value in arch.items() if key not in changed} for arch in architectures]
    assert all(arch == kept[0] for arch in kept)


def test_a_stopped_study_goes_on_and_writes_its_tables(project, monkeypatch, caplog):
    monkeypatch.chdir(project)
    arguments = ("config.yaml", (2,), 2, "study", ["Global.epochs=1"])
    trained = []

    def train_some(run, config, folder):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(run.name)
        return real(run, config, folder)

    real = small.train_run
    monkeypatch.setattr(small, "train_run", train_some)
    with pytest.raises(KeyboardInterrupt):
        small.study(*arguments)
    assert len(list((project / "study" / "runs").iterdir())) == 3 and not (project / "study" / "study.md").exists()
    (project / "study" / "runs" / f"{trained.pop()}.json").unlink()  # one is missing, others are kept
    monkeypatch.setattr(small, "train_run", real)
    with caplog.at_level("INFO"):
        table, effects = small.study(*arguments)
    assert "8 runs, 2 of them finished before" in caplog.text
    columns, *lines = csv.reader((project / "study" / "study.csv").open())
    assert len(lines) == 8 and columns == ["run", "network", "seed", "digits top-1"]
    assert [row[0] for row in table.rows] == [row.label for row in ROWS if row.table == 2]
    assert [row[1] for row in table.rows] == ["71.76", "72.53", "68.67", "53.98"]
    assert "\n".join(each.markdown() for each in (table, effects)) == (project / "study" / "study.md").read_text()
    assert [row[1] for row in effects.rows][0] == "the shortcut at 3x3"
    results = {line[0]: float(line[3]) for line in lines}
    plain = [results[f"table2_mbv2_3x3-seed{seed}"] for seed in (0, 1)]
    assert table.rows[0][2] == f"{np.mean(plain):.2f} ± {np.std(plain, ddof=1):.2f}"
    assert (project / "study" / "study.png").read_bytes().startswith(b"\x89PNG")
    with refused("analysis.other-settings", "table2_mbv2_3x3-seed0.json: a run with other settings"):
        small.study("config.yaml", (2,), 1, "study", ["Global.epochs=2"])
    (project / "study" / "runs" / "table2_mbv2_3x3-seed0.json").write_text("[]")
    with refused("analysis.not-a-result", "table2_mbv2_3x3-seed0.json: not the result of a run", "delete it"):
        small.study(*arguments)


def test_without_matplotlib_the_study_says_so_and_writes_its_tables(tmp_path, monkeypatch, caplog):
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    runs = small.plan((4,), 1)
    tables = small.write_report(runs, {run.name: 50.0 for run in runs}, tmp_path)
    assert [table.title[:7] for table in tables] == ["Table 4", "What ea"]
    assert "pip install" in caplog.text and "figures" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"study.csv", "study.md"}


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["-c", "none.yaml"], ["no configuration file at none.yaml"]),
        (["-c", "config.yaml", "-o", "Global.epoch=1"], ["Global.epoch: unknown key"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(colour_project, arguments, parts):
    assert_one_line_and_exit_2(run_tool("study", "run", *arguments, cwd=colour_project), *parts)
    assert not (colour_project / "output").exists()
