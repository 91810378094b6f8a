"""Parameters and multiply-adds: counted part by part, and as the README's table."""

import csv
import re

import pytest
from helpers import ROOT, assert_one_line_and_exit_2, run_tool
from paddle import nn

import ppreplk
from ppreplk.analysis.sizes import SHOWN, part_table, variant_line
from ppreplk.complexity import Complexity, count, count_by_part
from ppreplk.models.replknet import VARIANTS


class Parts(nn.Layer):
    """Children of every kind: a layer, a sequence, a list, and one that is not used."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2D(3, 4, 3, stride=2, padding=1), nn.Conv2D(4, 4, 1))
        self.groups = nn.LayerList([nn.Conv2D(4, 4, 1, groups=2), nn.Sequential(nn.Conv2D(4, 8, 1), nn.BatchNorm2D(8))])
        self.norm = nn.BatchNorm2D(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        for group in self.groups:
            x = group(x)
        return self.head(self.norm(x).mean([2, 3]))


def test_entries_of_a_list_are_parts_of_their_own():
    parts = count_by_part(Parts(), (2, 3, 8, 6))
    pixels = 2 * 4 * 3
    assert parts == {
        "stem": Complexity(4 * 27 + 4 + 4 * 4 + 4, pixels * (4 * 27 + 4 * 4)),
        "groups.0": Complexity(4 * 2 + 4, pixels * 4 * 2),
        "groups.1": Complexity(8 * 4 + 8 + 16, pixels * 8 * 4),
        "head": Complexity(8 * 5 + 5, 2 * 8 * 5),
        "norm": Complexity(16, 0),
    }
    assert list(parts) == ["stem", "groups.0", "groups.1", "head", "norm"], "in the order they are computed in"


def test_counting_leaves_the_mode_as_it_was():
    model = Parts()
    model.train()
    total = count(model, (1, 3, 8, 8))
    assert total.params == sum(parameter.size for parameter in model.parameters() if not parameter.stop_gradient)
    assert model.training and not model.head._forward_post_hooks


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
    assert {model for model, _ in expected} <= set(ppreplk.list_models())


@pytest.mark.parametrize("variant", [variant for variant in SHOWN if variant.model.startswith("RepLKNet")])
def test_kernels_are_those_of_the_network(variant):
    assert variant.kernels == "-".join(map(str, VARIANTS[variant.model]["large_kernel_sizes"]))


def test_parts_add_up(tmp_path):
    process = run_tool("complexity", "parts", "RepLKNet13T", "--size", "64", "--output", "t.csv", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    columns, *lines = csv.reader((tmp_path / "t.csv").open())
    names = [line[0] for line in lines]
    assert names[0].partition(".")[0] == "stem"
    assert [name for name in names if name.partition(".")[0] != "stem"][:3] == ["stages.0", "transitions.0", "stages.1"]
    assert names[-1] == "total"
    assert columns[1] == "output" and dict(line[:2] for line in lines)["stages.0"] == "16x16x16"
    for column in range(2, len(columns)):
        values = [float(line[column].rstrip("MG")) for line in lines if line[column] != "-"]
        assert sum(values[:-1]) == pytest.approx(values[-1], abs=0.0005 * len(values))
    model = ppreplk.build_model("RepLKNet13T")
    total = ppreplk.complexity.count(model, (1, 3, 64, 64))
    assert lines[-1][2] == f"{total.params / 1e6:.3f}M"


def test_parts_of_a_configuration():
    table = part_table(str(ROOT / "configs" / "study" / "table2_mbv2_13x13.yaml"), 64)
    assert table.rows[-1][2] == "4.647M"
    assert table.rows[1][:3] == ["stages.0", "16x32x32", "0.006M"]


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["parts", "RepLKNet31"], ["unknown model 'RepLKNet31'", "RepLKNet31B"]),
        (["parts", "none.yaml"], ["no configuration file at none.yaml"]),
        (["variants", "--output", "t.txt"], [".md or .csv"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, parts):
    assert_one_line_and_exit_2(run_tool("complexity", *arguments, cwd=tmp_path), *parts)
