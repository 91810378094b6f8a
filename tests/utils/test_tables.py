"""Tables as text and in files."""

import csv

import pytest
from helpers import refused

from ppreplk.utils.tables import Table, check_destination, write_table

TABLE = Table("Times, 2 rounds", ["C, H=W, K", "ms"], [["8, 7, 5", "1.50"], ['say "fft"', "2.00"]])


def test_markdown():
    lines = ["**Times, 2 rounds**", "", "| C, H=W, K | ms |", "| - | - |", "| 8, 7, 5 | 1.50 |", '| say "fft" | 2.00 |']
    assert TABLE.markdown() == "\n".join(lines) + "\n"


@pytest.mark.parametrize("suffix", [".md", ".csv"])
def test_files(tmp_path, suffix):
    path = check_destination(str(tmp_path / f"t{suffix}"))
    write_table(TABLE, path)
    assert list(tmp_path.iterdir()) == [path]
    if suffix == ".md":
        assert path.read_text() == TABLE.markdown()
    else:
        assert list(csv.reader(path.open(newline=""))) == [TABLE.columns, *TABLE.rows]


def test_other_files_are_refused():
    with refused("utils.output-path", "a table is written to a .md or .csv file, got t.txt"):
        check_destination("t.txt")
