"""The quick-start notebook: clean in the repository, and it runs from top to bottom."""

import json
import os

import pytest
from helpers import ROOT

NOTEBOOK = ROOT / "notebooks" / "replknet_quickstart.ipynb"


def code_cells(notebook) -> list:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_outputs_are_cleared():
    for cell in code_cells(json.loads(NOTEBOOK.read_text(encoding="utf-8"))):
        assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
def test_it_runs_from_a_clean_kernel_and_again(tmp_path):
    """python -m pytest -m slow tests/test_notebook.py: about four minutes; the second time nothing is left to train."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    (tmp_path / "work").mkdir()
    os.symlink(ROOT, tmp_path / "work" / "ppreplk")
    for _ in range(2):
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": tmp_path}}).execute()
    texts = ["".join(o.get("text", "") for o in cell["outputs"]) for cell in code_cells(notebook)]
    assert "nothing is left to do" in texts[1]
    assert "largest difference of the logits" in texts[3]
    pictures = [o for cell in code_cells(notebook) for o in cell["outputs"] if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
    assert texts[5].count("merged differs by") == 5
