"""The paper's tables: rows, recipes, the small-scale study, sizes, and their tools."""

import copy
import csv
import json
import re
import sys

import numpy as np
import paddle
import pytest
from helpers import ROOT, assert_one_line_and_exit_2, colour_config, run_tool, write_config

import ppreplk
from ppreplk.analysis import small_study as small
from ppreplk.analysis.recipes import recipe
from ppreplk.analysis.rows import ROWS, TABLES
from ppreplk.analysis.sizes import SHOWN, part_table, variant_line
from ppreplk.utils.errors import UserError

# FACTS: top-1 and, where there is one, mIoU
PUBLISHED = {
    2: [71.76, 72.53, 68.67, 53.98],
    3: [(71.76, 72.31), (72.67, 76.11), (73.09, 76.30), (72.53, 75.67), (73.24, 76.60)],
    4: [(71.76, 72.31), (72.00, 74.30), (71.97, 74.62)],
    5: [(82.11, 46.05), (82.73, 48.05), (83.02, 48.35), (83.00, 48.68), (83.07, 49.17)],
    11: [72.67, 57.23, 72.53, 51.21],
}


# --------------------------------------------------------------------------------------------------------
# Rows and recipes


def test_rows_hold_the_published_numbers():
    assert tuple(PUBLISHED) == TABLES
    for table, numbers in PUBLISHED.items():
        rows = [row for row in ROWS if row.table == table]
        assert [row.top1 if row.miou is None else (row.top1, row.miou) for row in rows] == numbers
    assert len({row.recipe for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.recipe)
def test_recipes_are_what_the_rows_say(row):
    """If this fails: python tools/study.py recipes configs"""
    assert (ROOT / "configs" / f"{row.recipe}.yaml").read_text() == recipe(row)


def test_there_are_no_other_recipes_of_the_study(tmp_path):
    process = run_tool("study", "recipes", "configs", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    written = {path.name for path in (tmp_path / "configs").rglob("*.yaml")}
    assert {path.name for path in (ROOT / "configs" / "study").iterdir()} <= written and len(written) == len(ROWS)


# --------------------------------------------------------------------------------------------------------
# The study at small scale


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
        (table,) = small.study(*arguments)
    assert "8 runs, 2 of them finished before" in caplog.text
    columns, *lines = csv.reader((project / "study" / "study.csv").open())
    assert len(lines) == 8 and columns == ["run", "network", "seed", "digits top-1"]
    assert [row[0] for row in table.rows] == [row.label for row in ROWS if row.table == 2]
    assert [row[1] for row in table.rows] == ["71.76", "72.53", "68.67", "53.98"]
    assert table.markdown() == (project / "study" / "study.md").read_text()
    results = {line[0]: float(line[3]) for line in lines}
    plain = [results[f"table2_mbv2_3x3-seed{seed}"] for seed in (0, 1)]
    assert table.rows[0][2] == f"{np.mean(plain):.2f} ± {np.std(plain, ddof=1):.2f}"
    assert (project / "study" / "study.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="a run with other settings"):
        small.study("config.yaml", (2,), 1, "study", ["Global.epochs=2"])
    (project / "study" / "runs" / "table2_mbv2_3x3-seed0.json").write_text("[]")
    with pytest.raises(UserError, match="not the result of a run"):
        small.study(*arguments)


def test_without_matplotlib_the_study_says_so_and_writes_its_tables(tmp_path, monkeypatch, caplog):
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    runs = small.plan((4,), 1)
    tables = small.write_report(runs, {run.name: 50.0 for run in runs}, tmp_path)
    assert [table.title[:7] for table in tables] == ["Table 4"]
    assert "pip install" in caplog.text and "figures" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"study.csv", "study.md"}


@pytest.mark.parametrize(
    "tool, arguments, parts",
    [
        ("study", ["run", "-c", "none.yaml"], ["no configuration file at none.yaml"]),
        ("study", ["run", "-c", "config.yaml", "-o", "Global.epoch=1"], ["Global.epoch: unknown key"]),
        ("study", ["recipes", "config.yaml"], ["cannot create config.yaml"]),
        ("complexity", ["parts", "RepLKNet31"], ["unknown model 'RepLKNet31'", "RepLKNet31B"]),
        ("complexity", ["parts", "none.yaml"], ["no configuration file at none.yaml"]),
        ("complexity", ["variants", "--output", "t.txt"], [".md or .csv"]),
        ("erf", ["--model", "RepLKNet31", "--images", "data"], ["unknown model 'RepLKNet31'"]),
        ("erf", ["--model", "RepLKNet13T=none.pth", "--images", "data"], ["no checkpoint at none.pth"]),
        ("erf", ["--model", "RepLKNet13T", "--images", "nothing"], ["there is no image, folder or list nothing"]),
        ("erf", ["--model", "RepLKNet13T", "--model", "RepLKNet13T", "--images", "data"], ["give each once"]),
        ("erf", ["--model", "RepLKNet13T", "--images", "data", "--layer", "stem.9"], ["no layer 'stem.9'"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(colour_project, tool, arguments, parts):
    assert_one_line_and_exit_2(run_tool(tool, *arguments, cwd=colour_project), *parts)
    assert not (colour_project / "output").exists()


# --------------------------------------------------------------------------------------------------------
# Receptive fields


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
    assert columns == ["network", "20%", "30%", "50%", "99%"] and [line[0] for line in lines] == labels
    for line, values in zip(lines, (np.load(output / f"{label}.npy") for label in labels)):
        area = ppreplk.erf.high_contribution_area(values, 0.5)[1]
        assert line[3] == f"{100 * area:.1f}" and float(line[1]) < float(line[4])


# --------------------------------------------------------------------------------------------------------
# Sizes


def readme_lines(name: str) -> dict[tuple[str, str], list[str]]:
    """{(model, input): cells} of the README's table of variants."""
    lines = re.findall(r"^\| (`\w+` \| .*) \|$", (ROOT / name).read_text(), flags=re.M)
    cells = [line.split(" | ") for line in lines]
    return {(line[0].strip("`"), line[2]): line for line in cells if len(line) == 7}


LARGE = [variant for variant in SHOWN if variant.size > 224]


@pytest.mark.parametrize(
    "variant",
    [pytest.param(variant, marks=[pytest.mark.slow] if variant in LARGE else []) for variant in SHOWN],
    ids=lambda variant: f"{variant.model}-{variant.size}",
)
def test_readme_has_the_table_of_the_tool(variant):
    """The large ones with -m slow. If this fails: python tools/complexity.py variants"""
    line = variant_line(variant)
    assert readme_lines("README.md")[variant.model, str(variant.size)] == line
    assert readme_lines("README.zh.md")[variant.model, str(variant.size)][:-1] == line[:-1]


def test_readme_has_every_variant():
    expected = [(variant.model, str(variant.size)) for variant in SHOWN]
    assert list(readme_lines("README.md")) == list(readme_lines("README.zh.md")) == expected
    assert {model for model, _ in expected} == set(ppreplk.list_models())


def test_parts_add_up(tmp_path):
    process = run_tool("complexity", "parts", "RepLKNet13T", "--size", "64", "--output", "t.csv", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    columns, *lines = csv.reader((tmp_path / "t.csv").open())
    names = [line[0] for line in lines]
    assert names[:3] == ["stem", "stages.0", "transitions.0"] and names[-1] == "total"
    for column in range(1, len(columns)):
        values = [float(line[column].rstrip("MG")) for line in lines if line[column] != "-"]
        assert sum(values[:-1]) == pytest.approx(values[-1], abs=0.0005 * len(values))
    model = ppreplk.build_model("RepLKNet13T")
    total = ppreplk.complexity.count(model, (1, 3, 64, 64))
    assert lines[-1][1] == f"{total.params / 1e6:.3f}M"


def test_parts_of_a_configuration():
    table = part_table(str(ROOT / "configs" / "study" / "table2_mbv2_13x13.yaml"), 64)
    assert table.rows[-1][1] == "4.647M"
    assert json.dumps(table.rows[1][:2]) == '["stages.0", "0.006M"]'
