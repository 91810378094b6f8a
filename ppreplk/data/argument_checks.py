"""Checks of arguments that several transforms take."""

from collections.abc import Sequence
from typing import Union

from ..utils.errors import UserError

Size = Union[int, Sequence[int]]


def check_size(size: Size, order: str) -> tuple[int, int]:
    """``size`` as two numbers; one number stands for both. ``order`` says in messages which is which.

    Raises:
        UserError: not one or two positive numbers.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise UserError(f"size must be one positive number or {order}, got {size}", code="data.bad-argument")
    return pair[0], pair[1]


def check_range(values: Sequence[float], name: str) -> tuple[float, float]:
    """``values`` as the two ends of a range.

    Raises:
        UserError: not two positive numbers, the smaller one first.
    """
    if len(values) != 2 or not 0 < values[0] <= values[1]:
        raise UserError(f"{name} must be two positive numbers in order, got {list(values)}", code="data.bad-argument")
    return values[0], values[1]


def check_fraction(value: float, name: str) -> float:
    """``value``.

    Raises:
        UserError: it is not between 0 and 1.
    """
    if not 0.0 <= value <= 1.0:
        raise UserError(f"{name} must lie between 0 and 1, got {value}", code="data.bad-argument")
    return value
