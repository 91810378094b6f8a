"""The pictures of the studies: what is drawn is what was measured."""

import numpy as np
import pytest
from helpers import refused

from ppreplk.analysis import erf_comparison, study_figures
from ppreplk.analysis.guideline_study import CLASSIFICATION, plan_guidelines
from ppreplk.analysis.guideline_tables import write_guidelines
from ppreplk.analysis.intervals import interval
from ppreplk.analysis.receptive_field import SHARES, high_contribution_area, scaled_scores
from ppreplk.utils import figures

pytest.importorskip("matplotlib")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    kept: list = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path, colours=None: kept.append(figure))
    return kept


def test_effects_are_drawn_with_all_seeds_and_their_interval(tmp_path, drawn):
    rng = np.random.default_rng(0)
    scores = {run: float(np.round(rng.uniform(20, 90), 2)) for run in plan_guidelines((2,), 4)}
    write_guidelines(scores, tmp_path)
    assert study_figures.draw_figures(tmp_path) == [tmp_path / "guidelines.png"]
    (axis,) = drawn[0].axes
    seeds = {run.seed: score for run, score in scores.items() if run.row.label == "13x13"}
    without = {run.seed: score for run, score in scores.items() if run.row.label == "13x13, no shortcut"}
    expected = [seeds[seed] - without[seed] for seed in range(4)]
    place = [tick.get_text() for tick in axis.get_yticklabels()].index("the shortcut at 13x13; top-1")
    lines = {line.get_label(): line for line in axis.lines if list(line.get_ydata())[:1] == [place]}
    np.testing.assert_allclose(lines["one seed"].get_xdata(), expected)
    np.testing.assert_allclose(lines["published"].get_xdata(), [18.55], rtol=1e-9)
    (container,) = [each for each in axis.containers if each.lines[0].get_ydata()[0] == place]
    (segments,) = (bars.get_segments() for bars in container.lines[2])
    found = interval(expected)
    np.testing.assert_allclose(segments[0][:, 0], [found.low, found.high])
    assert any(found.text() in text.get_text() for text in axis.texts)
    assert axis.get_title(loc="left").startswith("Table 2, the identity shortcut: ")


def test_panels_share_one_axis(drawn, tmp_path):
    scores = {run: 50.0 for run in plan_guidelines((2, 3), 2)}
    write_guidelines(scores, tmp_path)
    study_figures.draw_figures(tmp_path)
    assert len(drawn[0].axes) == 2 and len({axis.get_xlim() for axis in drawn[0].axes}) == 1
    assert all(axis.get_xlim()[0] < 0 < axis.get_xlim()[1] for axis in drawn[0].axes)


def test_gains_are_those_over_the_smallest_kernel(drawn, tmp_path):
    rows = ["run,task,kernel,seed,score"]
    values = {("segmentation", 3): [50.0, 60.0], ("segmentation", 13): [80.0, 84.0]}
    values |= {("control", 3): [80.0, 70.0], ("control", 13): [82.0, 75.0]}
    rows += [f"x,{task},{kernel},{seed},{v}" for (task, kernel), each in values.items() for seed, v in enumerate(each)]
    (tmp_path / "dense.csv").write_text("\n".join(rows) + "\n")
    study_figures.draw_figures(tmp_path)
    published, measured = drawn[0].axes
    ends = {line.get_label(): line.get_ydata()[-1] for line in published.lines if "," in str(line.get_label())}
    assert ends["RepLKNet, ADE20K mIoU"] == pytest.approx(3.12) and ends["RepLKNet, ImageNet top-1"] == pytest.approx(
        0.96
    )
    assert ends["MobileNetV2, Cityscapes mIoU"] == pytest.approx(4.29)
    heights = [list(each.lines[0].get_ydata()) for each in measured.containers]
    assert heights == [[0, 27.0], [0, 3.5]]
    found = study_figures.gains(study_figures.read_dense(tmp_path / "dense.csv"), "segmentation")
    assert found[1] == (13, interval([30.0, 24.0]))


def test_maps_are_drawn_with_their_squares(drawn, tmp_path):
    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[-24:24, -24:24]
    maps = {"narrow": np.exp(-(yy**2 + xx**2) / 20.0), "wide": np.exp(-(yy**2 + xx**2) / 400.0)}
    maps = {name: values * rng.uniform(0.9, 1.0, values.shape) for name, values in maps.items()}
    erf_comparison.write_fields(maps, tmp_path / "field", "made")
    assert study_figures.draw_figures(tmp_path) == [tmp_path / "field.png"]
    axes = [axis for axis in drawn[0].axes if axis.get_title() in maps]
    for axis, (name, values) in zip(axes, maps.items()):
        assert axis.get_title() == name
        np.testing.assert_allclose(axis.images[0].get_array(), scaled_scores(values), atol=1e-3)
        areas = [high_contribution_area(values, share)[1] for share in SHARES]
        squares = [patch.get_width() * patch.get_height() / values.size for patch in axis.patches]
        np.testing.assert_allclose(squares, areas, atol=6e-4)
        assert f"99% in {100 * areas[-1]:.1f}%" in axis.get_xlabel()
        for patch in axis.patches:
            np.testing.assert_allclose(patch.get_center(), [23.5, 23.5])
    (tmp_path / "field.csv").unlink()
    with refused("analysis.not-a-study", "no maps with areas"):
        study_figures.draw_figures(tmp_path)


def test_areas_without_the_logarithm_do_not_depend_on_scale():
    yy, xx = np.mgrid[-30:31, -30:31]
    values = np.exp(-(yy**2 + xx**2) / 200.0)
    for share in SHARES:
        small, large = (high_contribution_area(values * scale, share, logarithm=False) for scale in (1e-6, 1e6))
        assert small == large
    assert high_contribution_area(1e-6 * values, 0.5) == high_contribution_area(values, 0.5, logarithm=False)
    assert high_contribution_area(1e6 * values, 0.5)[1] > 1.5 * high_contribution_area(values, 0.5, False)[1]
    table = erf_comparison.area_table({"a": 1e6 * values}, "made")
    assert table.columns[5] == "plain 20%" and table.rows[0][-1] == "1.0e+06"


def test_a_folder_without_results_is_refused(tmp_path):
    with refused("analysis.no-results", "no results to draw"):
        study_figures.draw_figures(tmp_path)
    (tmp_path / "dense.csv").write_text("a,b\n1,2\n")
    with refused("analysis.not-a-study", "dense.csv"):
        study_figures.draw_figures(tmp_path)


def test_runs_of_a_part_are_drawn_too(drawn, tmp_path):
    scores = {run: 50.0 + run.seed for run in plan_guidelines((11,), 1)}
    assert {run.task for run in scores} == {CLASSIFICATION}
    write_guidelines(scores, tmp_path)
    study_figures.draw_figures(tmp_path)
    assert len(drawn[0].axes) == 1
