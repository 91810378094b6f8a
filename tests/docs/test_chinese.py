"""The Chinese pages and notebooks: what a program can see of good Chinese. The rest is for a reader's ear."""

import json
import re

import pytest
from helpers import ROOT

PAGES = sorted([*ROOT.glob("*.zh.md"), *ROOT.glob("docs/*.zh.md")])
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.zh.ipynb"))
HAN = r"[\u3400-\u9fff]"
# Words that the field does not use, and those that it uses instead.
REPLACED = {
    "深度卷积": "逐通道卷积",
    "捷径": "残差连接",
    "折叠": "融合",
    "一级特征图": "阶段",
    "本机实测": "本项目实测",
    "measured here": "本项目实测",
    "你": "您",
}


def chinese(path) -> str:
    """The text of a page or notebook, without code, addresses of links and formulas."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$|`[^`\n]*`", "X", text, flags=re.S)
    return re.sub(r"\]\([^)]*\)", "]", text)


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_paragraphs_are_one_line(path):
    """A line end inside a paragraph is shown as a space between two characters."""
    for before, after in zip(chinese(path).splitlines(), chinese(path).splitlines()[1:]):
        starts = r"\s*([-*] |\d+\. |#|\||!\[|<)"
        if before.strip() and after.strip() and not re.match(r"\s*(#|\||!\[|<)", before):
            assert re.match(starts, after), f"{before[-20:]} / {after[:20]}"


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_punctuation_beside_chinese_is_chinese(path):
    found = re.findall(rf".{{0,12}}(?:{HAN}[,;:?!]|{HAN} ?\(|\){HAN}|[,;:?!\"]{HAN}|{HAN}\").{{0,12}}", chinese(path))
    assert found == []


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_words_are_those_of_the_field(path):
    text = chinese(path)
    assert {word: instead for word, instead in REPLACED.items() if word in text} == {}


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_links_lead_to_chinese_pages_where_there_are_some(path):
    own = path.name.replace(".zh.", ".")
    for link in re.findall(r"\]\(([^)#:]+\.(?:md|ipynb))", path.read_text(encoding="utf-8")):
        target = path.parent / link
        if ".zh." not in link and target.name != own:
            assert not target.with_suffix(f".zh{target.suffix}").exists(), link


def test_there_are_pages_and_notebooks():
    assert len(PAGES) > 11 and len(NOTEBOOKS) == 2
