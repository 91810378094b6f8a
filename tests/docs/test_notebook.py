"""The notebooks: clean, alike in both languages, kept with outputs, and they run from top to bottom."""

import json
import os
import re

import pytest
from helpers import ROOT

FOLDER = ROOT / "notebooks"
RENDERED = FOLDER / "rendered"
QUICKSTART, LARGE_KERNELS = NAMES = ("replknet_quickstart", "large_kernels")
VERSIONS = [name + suffix for name in NAMES for suffix in ("", ".zh")]
MAX_BYTES = 1_000_000  # of all copies with outputs together


def read(path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook) -> list:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell) -> str:
    return "".join(cell["source"])


def printed(cell) -> str:
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def formulas(cell) -> list:
    return re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", source(cell))


def pictures(cells) -> int:
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])


def test_all_notebooks_are_looked_at():
    assert sorted(path.name for path in FOLDER.glob("*.ipynb")) == sorted(f"{name}.ipynb" for name in VERSIONS)
    assert sorted(path.name for path in RENDERED.iterdir()) == sorted(f"{name}.ipynb" for name in VERSIONS)


@pytest.mark.parametrize("name", VERSIONS)
def test_outputs_are_cleared(name):
    for cell in code_cells(read(FOLDER / f"{name}.ipynb")):
        assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.parametrize("name", NAMES)
def test_both_languages_have_the_same_code_formulas_and_numbers(name):
    english, chinese = (read(FOLDER / f"{version}.ipynb")["cells"] for version in (name, f"{name}.zh"))
    assert [cell["cell_type"] for cell in english] == [cell["cell_type"] for cell in chinese]
    for one, other in zip(english, chinese):
        if one["cell_type"] == "code":
            assert source(one) == source(other)
        else:
            assert formulas(one) == formulas(other)
            decimals = [sorted(re.findall(r"\d+\.\d+", source(cell))) for cell in (one, other)]
            assert decimals[0] == decimals[1]


@pytest.mark.parametrize("name", VERSIONS)
def test_links_lead_to_files(name):
    for folder in (FOLDER, RENDERED):
        text = "".join(source(cell) for cell in read(folder / f"{name}.ipynb")["cells"])
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (folder / link).exists(), link


@pytest.mark.parametrize("name", VERSIONS)
def test_the_copy_with_outputs_is_of_this_notebook(name):
    """Written again by ``python notebooks/render.py FOLDER``."""
    plain, kept = (code_cells(read(folder / f"{name}.ipynb")) for folder in (FOLDER, RENDERED))
    assert [source(cell) for cell in plain] == [source(cell) for cell in kept]
    assert pictures(kept) == pictures(code_cells(read(RENDERED / f"{name.partition('.')[0]}.ipynb"))) > 2
    outputs = json.dumps([cell["outputs"] for cell in kept])
    assert '"output_type": "error"' not in outputs
    assert re.findall(r"/(?:home|root|tmp|usr|opt)/[^\s\"]*", outputs) == []


def test_copies_with_outputs_are_small():
    assert sum(path.stat().st_size for path in RENDERED.iterdir()) < MAX_BYTES


def run(name: str, folder):
    """The notebook after a run in ``folder``, as on AI Studio: the project lies in ``work/ppreplk``."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": folder}}).execute()
    return code_cells(notebook)


@pytest.fixture
def folder(tmp_path):
    """With a space in its name."""
    folder = tmp_path / "AI Studio"
    (folder / "work").mkdir(parents=True)
    os.symlink(ROOT, folder / "work" / "ppreplk")
    return folder


@pytest.mark.slow
def test_the_quick_start_runs_from_a_clean_kernel_and_again(folder):
    """python -m pytest -m slow tests/docs/test_notebook.py: about four minutes, and as many for the other one."""
    run(QUICKSTART, folder)
    cells = run(QUICKSTART, folder)  # the second time nothing is left to train
    texts = [printed(cell) for cell in cells]
    assert "13x13, ConvFFN) -> [1, 16, 8, 8]" in texts[1]
    assert "nothing is left to do" in texts[2]
    assert float(re.search(r"by hand and by ppreplk: (\S+)", texts[5])[1]) < 1e-6
    assert texts[5].count("merged differs by") == 5
    assert "largest difference of the logits" in texts[6]
    assert re.search(r"folded, as exported *: \d+ convolutions, 0 batch", texts[6])
    assert pictures(cells) == 3


@pytest.mark.slow
def test_large_kernels_runs_from_a_clean_kernel(folder):
    cells = run(LARGE_KERNELS, folder)
    texts = [printed(cell) for cell in cells]
    assert re.search(r"RepLKNet31B: 79\.\dM parameters, 15\.\d+G", texts[1])
    assert "native" in texts[2] and "fft" in texts[2]
    assert texts[3].count("top-1") == 4
    assert float(re.search(r"by ppreplk.reparameterize: (\S+) apart", texts[4])[1]) < 1e-5
    assert any("text/markdown" in output.get("data", {}) for output in cells[5]["outputs"])
    assert "as far as 120 layers of 3x3" in texts[7]
    assert pictures(cells) == 6
