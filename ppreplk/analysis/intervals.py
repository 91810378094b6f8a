"""Means of few measurements with Student's confidence intervals, in float64, without another package."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from ..utils.errors import UserError

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean, and half the width of its confidence interval; NaN where one value allows none."""

    mean: float
    half: float

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out, so that the sign of the mean is more than chance."""
        return self.low > 0 or self.high < 0

    def text(self, sign: str = "+", digits: int = 1) -> str:
        """As tables show it.

        >>> Interval(2.04, 0.96).text(), Interval(2.0, math.nan).text("")
        ('+2.0 ± 1.0', '2.0')
        """
        half = "" if math.isnan(self.half) else f" ± {self.half:.{digits}f}"
        return f"{self.mean:{sign}.{digits}f}{half}"


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of independent measurements, with its confidence interval by Student's t distribution.

    Args:
        values: at least one.
        confidence: between 0 and 1.

    Raises:
        UserError: no value, or a confidence out of range.

    >>> interval([1.0, 2.0, 3.0]).text()
    '+2.0 ± 2.5'
    """
    if not values:
        raise UserError("a mean needs at least one value", code="analysis.no-values")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Interval(mean, math.nan)
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, t_quantile((1 + confidence) / 2, len(values) - 1) * error)


def paired(first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean difference ``first - second`` of measurements that belong together in pairs, such as those of one seed.

    Args:
        first, second: equally many, in the same order.
        confidence: between 0 and 1.

    Raises:
        UserError: not equally many, or none.
    """
    if len(first) != len(second):
        raise UserError(f"pairs need equally many values, got {len(first)} and {len(second)}", code="analysis.no-pairs")
    return interval([a - b for a, b in zip(first, second)], confidence)


def t_quantile(probability: float, freedom: int) -> float:
    """The value that Student's t stays below with a probability, by bisection of :func:`t_probability`.

    Args:
        probability: from 0.5 on, below 1.
        freedom: degrees of freedom, from 1 on.

    Raises:
        UserError: a probability out of range.
    """
    if not 0.5 <= probability < 1:
        raise UserError(f"a probability from 0.5 to 1 is needed, got {probability}", code="analysis.probability")
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < probability:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if t_probability(middle, freedom) < probability else (low, middle)
    return middle


def t_probability(t: float, freedom: int) -> float:
    """The probability that Student's t is below ``t``, from 0 on, by the finite sums for whole degrees of freedom.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    total, term, odd = 0.0, cosine if freedom % 2 else 1.0, freedom % 2
    for step in range(freedom // 2):  # cos, cos^3 * 2/3, ... or 1, cos^2 * 1/2, ...
        total += term
        term *= cosine**2 * (2 * step + 1 + odd) / (2 * step + 2 + odd)
    between = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + between / 2
