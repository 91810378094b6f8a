"""docs/architecture-of-replknet.md: its network computes what the package's does, and its tables are the tools'."""

import re

import paddle
import pytest
from helpers import ROOT, randomise_batch_norms, relative_difference

import ppreplk
from ppreplk.analysis.sizes import kind_table, part_table
from ppreplk.models.replknet.network import ConvFFN, RepLKBlock

PAGE = (ROOT / "docs" / "architecture-of-replknet.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page() -> dict:
    """What the page's code defines, and what it prints, run from top to bottom."""
    printed: list[str] = []
    names: dict = {"print": printed.append}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)), names)
    return {**names, "printed": printed}


def test_the_code_prints_that_nothing_differs(page):
    loaded, merged = page["printed"]
    assert "missing [], unexpected []" in loaded
    for line in (loaded, merged):
        assert float(line.rpartition(" ")[2]) < 1e-5


@pytest.mark.parametrize("block", ["RepLKBlock", "ConvFFN"])
def test_a_block_is_the_one_of_the_package(page, block):
    """With statistics of batch normalization that are none of the initial ones."""
    if block == "RepLKBlock":
        theirs = RepLKBlock(6, 6, 9, 3, drop_path=0.0, merged=False, depthwise_impl="native")
        ours = page["RepLKBlock"](6, 9, 3)
    else:
        theirs, ours = ConvFFN(6, 24, drop_path=0.0), page["ConvFFN"](6)
    randomise_batch_norms(theirs)
    missing, unexpected = ours.set_state_dict(theirs.state_dict())
    assert not missing and not unexpected
    theirs.eval()
    ours.eval()
    x = paddle.randn([2, 6, 12, 10])
    assert relative_difference(ours(x), theirs(x)) < 1e-5
    if block == "RepLKBlock":
        theirs.large_kernel.re_parameterize()
        ours.large_kernel = page["merged"](ours.large_kernel)
        merged = theirs.large_kernel.lkb_reparam
        assert relative_difference(ours.large_kernel.weight, merged.weight) < 1e-5
        assert relative_difference(ours.large_kernel.bias, merged.bias) < 1e-5
        assert relative_difference(ours(x), theirs(x)) < 1e-5


def test_a_whole_network_is_the_one_of_the_package(page):
    theirs = ppreplk.build_model("RepLKNet13T", class_num=10)
    randomise_batch_norms(theirs)
    ours = page["RepLKNet"]((13, 9, 7, 3), (1, 1, 2, 1), (16, 32, 64, 128), 3, 10)
    ours.set_state_dict(theirs.state_dict())
    theirs.eval()
    ours.eval()
    x = paddle.randn([2, 3, 40, 40])
    assert relative_difference(ours(x), theirs(x)) < 1e-4


def test_the_code_is_a_hundred_lines():
    code = "".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.S))
    assert len([line for line in code.splitlines() if line.strip()]) <= 100


@pytest.mark.slow
def test_the_tables_are_those_of_the_tools():
    """python -m pytest -m slow tests/docs/test_replknet_page.py; the lines are printed by tools/complexity.py."""
    parts, kinds = part_table("RepLKNet31B", 224), kind_table("RepLKNet31B", 224)
    columns = [list(parts.columns).index(name) for name in ("part", "output")]
    columns += [list(parts.columns).index(name) for name in ("parameters, exported", "multiply-adds, merged")]
    shown = [[row[column] for column in columns] for row in parts.rows if row[0] != "norm"]
    for row in [*shown, *kinds.rows]:
        assert f"| {' | '.join(row)} |" in PAGE
