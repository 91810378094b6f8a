"""Means with confidence intervals, against scipy and by counting how often they hold the truth."""

import math

import numpy as np
import pytest
from helpers import refused

from ppreplk.analysis.intervals import Interval, interval, paired, t_probability, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 10, 29])
def test_quantiles_and_probabilities_are_those_of_scipy(freedom):
    stats = pytest.importorskip("scipy.stats")
    for probability in (0.5, 0.9, 0.975, 0.995):
        assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), abs=1e-9, rel=1e-9)
    for t in (0.0, 0.3, 1.0, 4.0, 60.0):
        assert t_probability(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), abs=1e-14)


def test_paired_intervals_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for count in (2, 5, 10):
        first, second = rng.normal(size=(2, count))
        found = paired(first.tolist(), second.tolist(), 0.9)
        truth = stats.ttest_rel(first, second).confidence_interval(0.9)
        assert (found.low, found.high) == pytest.approx((truth.low, truth.high), rel=1e-9)


def test_nineteen_of_twenty_intervals_hold_the_true_mean():
    rng = np.random.default_rng(0)
    samples = rng.normal(3.0, 2.0, (3000, 4))
    held = [found.low < 3.0 < found.high for found in map(interval, samples.tolist())]
    assert 0.94 < np.mean(held) < 0.96


def test_pairs_are_compared_one_by_one():
    first, second = [1.0, 11.0, 21.0], [0.0, 10.0, 20.0]
    assert paired(first, second) == Interval(1.0, 0.0), "the spread between pairs does not count"
    assert interval(first).half > 20


def test_one_value_has_no_interval_and_decides_nothing():
    found = interval([2.0])
    assert found.mean == 2.0 and math.isnan(found.half) and not found.decided and found.text() == "+2.0"
    assert not interval([1.0, 3.0]).decided and interval([1.0, 1.1, 0.9]).decided
    assert interval([-1.0, -1.1, -0.9]).decided


def test_what_is_no_sample_is_refused():
    for call, code in [
        (lambda: interval([]), "analysis.no-values"),
        (lambda: paired([1.0], []), "analysis.no-pairs"),
        (lambda: interval([1.0, 2.0], 1.0), "analysis.probability"),
        (lambda: interval([1.0, 2.0], -0.5), "analysis.probability"),
    ]:
        with refused(code, ""):
            call()
