"""The pages: docs/config.md has every key with its default, commands and links work, measured numbers are there."""

import csv
import importlib
import inspect
import re
import shlex
from dataclasses import MISSING
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, run_python

from ppreplk import config
from ppreplk.analysis.dense_study import dense_table, plan_dense
from ppreplk.analysis.guideline_study import TABLES as GUIDELINE_TABLES
from ppreplk.analysis.guideline_study import plan_guidelines
from ppreplk.analysis.guideline_tables import read_guidelines, write_guidelines
from ppreplk.analysis.rows import TABLES
from ppreplk.analysis.small_study import plan, report_tables
from ppreplk.cli import command_parser
from ppreplk.config.checking import describe, signature_of
from ppreplk.data import BATCH_TRANSFORMS, DATASETS, TRANSFORMS
from ppreplk.models.registry import architectures
from ppreplk.plugins.paddlex import pipeline_parser
from ppreplk.training.losses import LOSSES
from ppreplk.training.metrics import METRICS
from ppreplk.training.optimizers import OPTIMIZERS
from ppreplk.training.schedules import SCHEDULES

SECTIONS = {
    "Global": config.GlobalConfig,
    "EMA": config.EMAConfig,
    "AMP": config.AMPConfig,
    "Arch": config.ArchConfig,
    "Loss": config.LossConfig,
    "Optimizer": config.OptimizerConfig,
    "DataLoader": config.DataLoaderConfig,
    "DataLoader: dataset": config.DatasetConfig,
    "DataLoader: sampler": config.SamplerConfig,
    "DataLoader: loader": config.LoaderConfig,
    "Infer": config.InferConfig,
    "Infer: PostProcess": config.PostProcessConfig,
    "Metric": config.MetricConfig,
    **{f"Arch: {each.name}": each.network for each in architectures()},
    **{f"Loss: {name}": factory for name, factory in LOSSES.items()},
    **{f"Optimizer: {name}": factory for name, factory in OPTIMIZERS.items()},
    **{f"Optimizer.lr: {name}": factory for name, factory in SCHEDULES.items()},
    **{f"DataLoader: dataset: {name}": factory for name, factory in DATASETS.items()},
    **{f"transform_ops: {name}": factory for name, factory in TRANSFORMS.items()},
    **{f"batch_transform_ops: {name}": factory for name, factory in BATCH_TRANSFORMS.items()},
    **{f"Metric: {name}": factory for name, factory in METRICS.items()},
}
# what the program fills in, not the file; class_num is a key of Arch and Global alone
GIVEN = {"where", "arguments", "transforms", "seed", "schedule", "model", "per_epoch", "ops", "class_num", "epochs"}
GIVEN |= {"class_counts", "report", "image_channels"}
OWN = {"Global": {"seed", "class_num", "epochs"}, "Arch": {"class_num"}, "Infer": {"transforms"}}


def documented() -> dict[str, dict[str, tuple[str, str]]]:
    """{section: {key: (what it takes, default)}} of docs/config.md."""
    sections: dict[str, dict[str, tuple[str, str]]] = {}
    for block in re.split(r"^## ", (ROOT / "docs" / "config.md").read_text(), flags=re.M)[1:]:
        title, _, body = block.partition("\n")
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| \S.*\|$", body, flags=re.M)
        sections[title] = {key: (takes, default) for key, takes, default in rows}
    return sections


def expected(section: str) -> dict[str, tuple[str, str]]:
    keys = {}
    defaults, hints = signature_of(SECTIONS[section])
    for key, value in defaults.items():
        if key in GIVEN - OWN.get(section, set()):
            continue
        if value is inspect.Parameter.empty:
            default = "required"
        elif value is MISSING:
            default = "`[3, 224, 224]`" if key == "image_shape" else "empty"
        else:
            default = "null" if value is None else f"`{value!r}`"
        keys[key] = (describe(hints[key]), default)
    return keys


def test_the_page_has_every_section_and_no_other():
    assert set(documented()) == set(SECTIONS)


def test_the_chinese_page_has_the_same_sections_keys_and_defaults():
    sides = []
    for page in ("config.md", "config.zh.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        rows = re.findall(r"^## (.+)$|^\| (`\w+`) \| .*? \| (.*?) \| \S.*\|$", text, flags=re.M)
        words = {"必填": "required", "空": "empty"}
        sides.append([(title, key, words.get(default, default)) for title, key, default in rows])
    assert sides[0] == sides[1]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_with_what_it_takes_and_its_default(section):
    assert documented()[section] == expected(section)


# --------------------------------------------------------------------------------------------------------
# Commands in any page

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TOOL = re.compile(r"(?:python |\d )tools/([\w-]+)\.py (.*)|ppreplk ([\w-]+) (.*)")
SUITE = re.compile(r"python -m ppreplk\.plugins\.(paddleseg|paddledetection) (\w+) (.*)")


def shell_lines(page: str) -> list[str]:
    """Every command of a page's shell blocks, on one line each."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [command for line in lines for command in line.split(" && ")]


def page_commands(page: str) -> list[tuple[str, list[str]]]:
    """(subcommand, arguments) of every command of ours in a page's shell blocks."""
    found = []
    for command in shell_lines(page):
        match = TOOL.search(command)
        if match and (match[3] is None or command.startswith("ppreplk ")):
            found.append((match[1] or match[3], shlex.split(match[2] or match[4] or "", comments=True)))
    return found


def suite_commands(page: str) -> list[tuple[str, str, list[str]]]:
    """(plugin, command, arguments) of every command that goes through the launcher of a suite."""
    matches = [match for command in shell_lines(page) if (match := SUITE.search(command))]
    return [(match[1], match[2], shlex.split(match[3], comments=True)) for match in matches]


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_arguments_recipes_and_keys_that_exist(page):
    for name, arguments in page_commands(page):
        parsed = command_parser().parse_args([name, *arguments])
        if getattr(parsed, "config", None) is not None:
            config.load_config(ROOT / parsed.config, parsed.override)


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_suites_have_arguments_and_recipes_that_exist(page):
    for plugin, command, arguments in suite_commands(page):
        launcher = importlib.import_module(f"ppreplk.plugins.{plugin}.__main__")
        assert command in launcher.COMMANDS
        parsed = launcher.command_parser(command).parse_args(arguments)
        if "config" in parsed:
            keys = yaml.load((ROOT / parsed.config).read_text(encoding="utf-8"), AnyTag)
            for option in getattr(parsed, "opts", None) or getattr(parsed, "opt", None) or []:
                assert has_key(keys, option.partition("=")[0]), option


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_paddlex_have_arguments_that_exist(page):
    for command in shell_lines(page):
        given = shlex.split(command.partition("python -m ppreplk.plugins.paddlex ")[2], comments=True)
        if given[:1] == ["pipeline"]:
            assert pipeline_parser().parse_args(given[1:]).output.endswith(".yaml")


class AnyTag(yaml.SafeLoader):
    """Reads PaddleDetection's files, whose schedules are tagged."""


AnyTag.add_multi_constructor("!", lambda loader, tag, node: loader.construct_mapping(node))


def has_key(config: dict, key: str) -> bool:
    """Whether ``a.b.c`` is in a configuration. ``weights`` is a key of PaddleDetection's that no recipe sets."""
    first, _, rest = key.partition(".")
    return key == "weights" or (first in config and (not rest or has_key(config[first], rest)))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / page).parent.joinpath(link).exists(), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.endswith(".zh.md")])
def test_chinese_pages_have_the_commands_and_the_code_of_the_english_ones(page):
    english = page.replace(".zh.md", ".md")
    assert Path(page).name in (ROOT / english).read_text(encoding="utf-8")
    assert Path(english).name in (ROOT / page).read_text(encoding="utf-8")
    assert page_commands(page) == page_commands(english)
    assert suite_commands(page) == suite_commands(english)
    assert python_blocks(page) == python_blocks(english)
    assert table_lines(page) == table_lines(english)


def table_lines(page: str) -> list[list[str]]:
    """Numbers and code of every line of a page's tables, in no order; not where 1.28 million is 128 万 in Chinese."""
    lines = [line for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    lines = [re.sub(r"\]\([^)]*\)", "]", line) for line in lines if "万" not in line and "million" not in line]
    return [sorted(re.findall(r"`[^`]+`|\d[\d.,]*\d|\d", line)) for line in lines]


def python_blocks(page: str) -> list[str]:
    """The Python code of a page, without its comments."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
    return [re.sub(r" *#.*", "", block) for block in blocks]


def test_the_first_python_of_the_readme_runs_as_written():
    printed = run_python(python_blocks("README.md")[0])
    found = re.search(r"features \S*\[1, 1024, 7, 7\]\S*, relative difference (\S+)", printed)
    assert found and float(found[1]) < 1e-5
    assert "params=79" in printed


@pytest.mark.parametrize("page", ["docs/troubleshooting.md", "docs/troubleshooting.zh.md"])
def test_codes_of_the_troubleshooting_page_exist(page):
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "ppreplk").rglob("*.py"))
    rooms = "utils|command|config|ops|data|checkpoints|training|deploy|plugins"
    codes = re.findall(rf"`((?:{rooms})\.[a-z0-9-]+)`", (ROOT / page).read_text(encoding="utf-8"))
    assert len(codes) > 40
    assert [code for code in codes if f'"{code}"' not in sources] == []


def test_the_pages_have_commands():
    assert sum(len(page_commands(page)) for page in PAGES) > 40
    assert len(suite_commands("docs/downstream.md")) > 16


WEIGHTS = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")


def test_configurations_beside_weights_exist():
    named = set(re.findall(r"`(\w+\.yaml)`", WEIGHTS))
    assert len(named) >= 9 and all((ROOT / "configs" / name).is_file() for name in named)


def test_every_section_of_a_configuration_is_there():
    tops = set(signature_of(config.Config)[0])
    assert tops == {title for title in SECTIONS if re.fullmatch(r"\w+", title)}


# --------------------------------------------------------------------------------------------------------
# docs/large_kernels.md and its Chinese counterpart

ARTICLES = ("large_kernels.md", "large_kernels.zh.md")
FIGURES = ROOT / "docs" / "large_kernels"
MAX_BYTES = 200_000


def article(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def commands(name: str) -> list[str]:
    return re.findall(r"```bash\n(.*?)```", article(name), flags=re.S)


def numbers_of_tables(name: str) -> list[list[str]]:
    """The cells with a decimal number of every table line that has at least two."""
    lines = [re.findall(r"\d+\.\d+(?: ± \d+\.\d+)?", line) for line in article(name).splitlines() if line[:1] == "|"]
    return [line for line in lines if len(line) > 1]


def test_both_languages_have_the_same_commands_and_numbers():
    english, chinese = ARTICLES
    assert commands(english) == commands(chinese)
    assert numbers_of_tables(english) == numbers_of_tables(chinese)


@pytest.mark.parametrize("name", ARTICLES)
def test_pictures_and_links_are_there_and_small(name):
    links = re.findall(r"\]\(([^)#:]+)\)", article(name))
    assert {
        f"large_kernels/{picture}.png" for picture in ("guidelines", "study_effects", "dense", "erf", "field")
    } <= set(links)
    for link in links:
        path = ROOT / "docs" / link
        assert path.is_file() and path.stat().st_size < MAX_BYTES, link


def test_measured_tables_are_those_of_the_committed_run():
    """In the English article; the Chinese one has the same numbers."""
    lines = article(ARTICLES[0]).splitlines()
    for table in ("study.md", "guidelines.md", "dense.md", "erf.md", "field.md", "table1.md"):
        measured = [line for line in (FIGURES / table).read_text().splitlines() if re.match(r"\| .*\d\.\d", line)]
        assert measured and set(measured) <= set(lines)


def test_the_committed_runs_are_those_of_the_commands_in_the_article():
    runs = list(csv.reader((FIGURES / "study.csv").open(encoding="utf-8")))[1:]
    assert [run[0] for run in runs] == [run.name for run in plan(TABLES, 3)]
    top1 = {run[0]: float(run[3]) for run in runs}
    assert (FIGURES / "study.md").read_text(encoding="utf-8") == "\n".join(
        table.markdown() for table in report_tables(plan(TABLES, 3), top1)
    )


def test_the_committed_run_of_the_guidelines_is_the_default_one(tmp_path):
    scores = read_guidelines(FIGURES / "guidelines.csv")
    assert list(scores) == plan_guidelines(GUIDELINE_TABLES, 5)
    write_guidelines(scores, tmp_path)
    for suffix in (".csv", ".md"):
        name = f"guidelines{suffix}"
        assert (tmp_path / name).read_text(encoding="utf-8") == (FIGURES / name).read_text(encoding="utf-8")


def test_the_committed_dense_run_is_the_default_one():
    runs = list(csv.reader((FIGURES / "dense.csv").open(encoding="utf-8")))[1:]
    planned = plan_dense([3, 13], 5, 300)
    assert [run[0] for run in runs] == [run.name for run in planned]
    scores = {run: float(line[4]) for run, line in zip(planned, runs)}
    assert (FIGURES / "dense.md").read_text(encoding="utf-8") == dense_table(scores).markdown()
