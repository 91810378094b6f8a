"""Figures in files, and what is said where matplotlib is missing or broken."""

import sys

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from ppreplk.utils import figures
from ppreplk.utils.figures import check_figure, check_matplotlib, dot_rows, heat_maps, matplotlib_problem, reduced


@pytest.fixture
def broken_matplotlib(tmp_path, monkeypatch):
    """A matplotlib that raises on import, as one does that was compiled for another numpy."""
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise AttributeError('_ARRAY_API\\nnot found')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_broken_matplotlib_is_one_line(broken_matplotlib):
    with refused("utils.no-matplotlib", "broken here (AttributeError: _ARRAY_API not found)", "--force-reinstall"):
        check_matplotlib()


def test_a_missing_matplotlib_says_how_to_install_it(monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with refused("utils.no-matplotlib", "not installed", 'pip install "ppreplk[figures]"'):
        check_matplotlib()


def test_figure_paths(tmp_path):
    with refused("utils.output-path", "a figure is written to a .png or .svg file, got f.bmp"):
        check_figure("f.bmp")
    pytest.importorskip("matplotlib")
    assert matplotlib_problem() is None
    assert check_figure(str(tmp_path / "f.svg")) == tmp_path / "f.svg"


def test_heat_maps_are_drawn_side_by_side(tmp_path):
    pytest.importorskip("matplotlib")
    scores = np.random.default_rng(0).random((200, 200))
    sizes = []
    for count in (1, 2):
        heat_maps({f"network {number}": scores for number in range(count)}, tmp_path / "f.png")
        with Image.open(tmp_path / "f.png") as image:
            sizes.append(image.size)
    assert sizes[1][0] > 1.5 * sizes[0][0] and sizes[0][1] == sizes[1][1]


def test_rows_of_dots(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [("3x3", 71.76, [50.0, 51.0]), ("13x13", 72.53, [52.0])]
    dot_rows({"Table 2": rows, "Table 3": rows[:1]}, ["published", "measured"], tmp_path / "f.svg")
    text = (tmp_path / "f.svg").read_text()
    assert "<svg" in text and [path.name for path in tmp_path.iterdir()] == ["f.svg"]


def test_maps_are_reduced_to_means_of_blocks(monkeypatch):
    monkeypatch.setattr(figures, "MAP_PIXELS", 2)
    received = reduced(np.arange(25.0).reshape(5, 5))
    assert received.shape == (1, 1) and received[0, 0] == np.mean([[0, 1, 2], [5, 6, 7], [10, 11, 12]])
    np.testing.assert_array_equal(reduced(np.eye(2)), np.eye(2))
