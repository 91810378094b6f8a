"""Meters and curves of a training."""

import sys
import time

import pytest
from helpers import refused

from ppreplk.training.curves import Curves
from ppreplk.training.meters import Averages, Stopwatch


def test_averages_are_weighted_by_samples():
    averages = Averages()
    averages.add({"loss": 6.0, "top1": 2.0}, 3)
    averages.add({"loss": 4.0, "top1": 0.0}, 1)
    assert averages.means() == averages.over_processes().means() == {"loss": 2.5, "top1": 0.5}
    assert str(averages) == "loss: 2.50000, top1: 0.50000"
    averages.add({"skipped": 0.0}, 0)
    assert "skipped" in averages.sums() and "skipped" not in averages.means()


def test_the_stopwatch_counts_reading_and_batches(monkeypatch):
    now = iter([10.0, 10.5, 12.0, 12.5, 14.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    watch = Stopwatch()
    for _ in range(2):
        watch.batch_read()
        watch.batch_done(8)
    expected = "batch_cost: 2.00000s, reader_cost: 0.50000s, ips: 8.00000 samples/s, eta: 0:01:00"
    assert watch.line(batches_left=30, processes=2) == expected
    watch.reset()
    assert watch.line().startswith("batch_cost: 0.00000s")


@pytest.mark.parametrize(
    "content, part", [(None, "visualdl"), ("raise RuntimeError('broken')", "RuntimeError: broken")]
)
def test_curves_without_a_working_visualdl(tmp_path, monkeypatch, content, part):
    for name in [name for name in sys.modules if name.partition(".")[0] == "visualdl"]:
        monkeypatch.delitem(sys.modules, name)
    if content is None:
        monkeypatch.setitem(sys.modules, "visualdl", None)
    else:
        (tmp_path / "visualdl.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
    with refused("training.no-visualdl", "Global.use_visualdl: ", part, "pip install visualdl"):
        Curves(tmp_path)
