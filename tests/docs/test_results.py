"""docs/results.md: its tables are those of docs/results.csv, in both languages, and its code runs."""

import csv
import re
from decimal import Decimal

import pytest
from helpers import ROOT, run_python

from ppreplk.analysis.sizes import SHOWN

PAGES = ("results.md", "results.zh.md")
CSV = ROOT / "docs" / "results.csv"
FORMS = ("network", "pretraining", "setting", "parameters", "multiply-adds", "first", "second", "source")


def rows() -> list[dict[str, str]]:
    return list(csv.DictReader(CSV.open(encoding="utf-8")))


def result_lines(table: str) -> list[str]:
    """The lines of one table; a column that is empty throughout is left out."""
    chosen = [row for row in rows() if row["table"] == table]
    columns = [name for name in FORMS if any(row[name] for row in chosen)]
    return [f"| {' | '.join(row[name] or '-' for name in columns)} |" for row in chosen]


def differences() -> list[str]:
    """RepLKNet minus Swin for every pair, exactly as the numbers are published."""
    lines = []
    pairs = dict.fromkeys(row["pair"] for row in rows() if row["pair"])
    for pair in pairs:
        ours, swin = (row for row in rows() if row["pair"] == pair)
        assert ours["network"].startswith("RepLKNet") and swin["network"].startswith("Swin")
        assert [ours[name] for name in FORMS[1:3]] == [swin[name] for name in FORMS[1:3]]
        gaps = [Decimal(ours[name]) - Decimal(swin[name]) for name in ("first", "second") if ours[name]]
        names = [ours["network"], swin["network"], ours["pretraining"], ours["setting"]]
        lines.append(f"| {' | '.join([*names, ' / '.join(f'{gap:+}' if gap else str(gap) for gap in gaps)])} |")
    return lines


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("table", ["classification", "segmentation", "detection", "differences"])
def test_the_tables_are_those_of_the_csv(page, table):
    """If this fails, the lines that it prints belong into the page."""
    lines = differences() if table == "differences" else result_lines(table)
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert "\n".join(lines) in text, "\n".join(lines)


def test_accuracies_are_those_of_the_readme():
    published = {row["first"] for row in rows() if row["table"] == "classification" and "RepLK" in row["network"]}
    shown = " ".join(variant.accuracy for variant in SHOWN if variant.model in ("RepLKNet31B", "RepLKNet31L"))
    assert published - {"87.8"} == set(re.findall(r"8\d\.\d(?!\d)", shown))


def test_stacked_dilated_kernels_see_a_lattice():
    """The page's own code."""
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / PAGES[0]).read_text(encoding="utf-8"), flags=re.S)
    dense, dilated = (int(value) for value in re.findall(r"(\d+) of 625", run_python(code)))
    assert (dense, dilated) == (625, 49)
