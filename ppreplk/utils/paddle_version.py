"""Versions of Paddle, as far as they matter here."""

from __future__ import annotations

import re

from .errors import UserError

OLDEST, END = (3, 1), (4, 0)  # as in pyproject.toml and setup.py; END is the first that is too new
REQUIREMENT = '"paddlepaddle>=3.1,<4" (for CPUs), or Paddle\'s wheel for your GPU'


def numbers(version: str) -> tuple[int, int] | None:
    """The first two numbers of a version; None for 0.0.0, by which a Paddle built from its sources may go.

    >>> numbers("3.2.2"), numbers("0.0.0")
    ((3, 2), None)
    """
    major, minor = [int(number) for number in re.findall(r"\d+", version)[:2]]
    return (major, minor) if (major, minor) != (0, 0) else None


def check_paddle(version: str) -> None:
    """Refuse a Paddle that is too old or too new. A wheel of ours cannot require one: GPU wheels have another name.

    Raises:
        UserError: it is too old or too new.
    """
    found = numbers(version)
    if found is not None and not OLDEST <= found < END:
        oldest, end = (".".join(map(str, limit)) for limit in (OLDEST, END))
        raise UserError(
            f"Paddle is {version} here, and needed is {oldest} or newer, below {end}: pip install {REQUIREMENT}",
            code="utils.paddle-version",
        )


def is_before(version: str, limit: tuple[int, int]) -> bool:
    """Whether a Paddle is older than ``limit``, such as (3, 3). One built from its sources counts as new."""
    found = numbers(version)
    return found is not None and found < limit
