"""docs/article.md: every command in its table can be given, and every place that it names is there."""

import re
import shlex

import pytest
from helpers import ROOT

from ppreplk.cli import command_parser

PAGES = ("article.md", "article.zh.md")


def table(page: str) -> list[list[str]]:
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("|")][2:]


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_arguments_that_exist(page):
    given = re.compile(r"`python tools/([\w-]+)\.py (.*?)`")
    commands = [command for line in table(page) for command in given.findall(line[2])]
    assert len(commands) > 15
    for name, arguments in commands:
        command_parser().parse_args([name, *shlex.split(arguments)])


def headings(path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, "results.md", "results.zh.md"])
def test_anchors_are_headings(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([\w.-]*)#([^)]+)\)", text)
    assert links
    for name, anchor in links:
        assert anchor in headings(ROOT / "docs" / (name or page)), f"{name}#{anchor}"


def test_every_table_and_figure_of_the_paper_is_there():
    items = " ".join(line[0] for line in table(PAGES[0]))
    for number in range(1, 12):
        assert re.search(rf"tables? {number}\b|tables \d+ and {number}\b", items), number
    for number in range(1, 6):
        assert f"figure {number}:" in items


def test_every_line_has_a_status_and_both_languages_the_same_commands():
    english, chinese = map(table, PAGES)
    assert [line[2] for line in english] == [line[2] for line in chinese]
    assert all(len(line) == 4 and line[3] for line in english + chinese)
