"""The rows of the paper's tables, and the recipes made from them."""

import pytest
from helpers import ROOT, assert_one_line_and_exit_2, run_tool

from ppreplk.analysis.recipes import recipe
from ppreplk.analysis.rows import ROWS, TABLES

# Top-1 and, where there is one, mIoU
PUBLISHED = {
    2: [71.76, 72.53, 68.67, 53.98],
    3: [(71.76, 72.31), (72.67, 76.11), (73.09, 76.30), (72.53, 75.67), (73.24, 76.60)],
    4: [(71.76, 72.31), (72.00, 74.30), (71.97, 74.62)],
    5: [(82.11, 46.05), (82.73, 48.05), (83.02, 48.35), (83.00, 48.68), (83.07, 49.17)],
    11: [72.67, 57.23, 72.53, 51.21],
}


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


def test_recipes_go_to_a_folder(tmp_path):
    (tmp_path / "configs").write_text("")
    process = run_tool("study", "recipes", "configs", cwd=tmp_path)
    assert_one_line_and_exit_2(process, "cannot create configs", code="utils.cannot-write")
