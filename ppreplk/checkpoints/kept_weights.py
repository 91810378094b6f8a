"""Which weights a checkpoint of a training keeps: raw and averaged ones, each under its own name.

A training without the section ``EMA`` keeps one set of weights. With it there are two, in files that are called as
PaddleClas calls them: ``NAME.pdparams`` has the averaged ones, which are the ones to use, and ``NAME.pdema`` the raw
ones, which are those that the training goes on from.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..utils.errors import UserError
from .trained_classes import WEIGHTS, digests_beside

RAW, AVERAGED, BOTH = "raw", "averaged", "both"
CHOICES = (RAW, AVERAGED, BOTH)
RAW_WEIGHTS = ".pdema"


class KeptWeights(NamedTuple):
    """A set of weights: what it is called (empty where there is only one set), and its file."""

    name: str
    path: str


def kept_weights(weights: str, choice: str | None = None) -> list[KeptWeights]:
    """The weights to use of a checkpoint.

    Args:
        weights: ``NAME``, ``NAME.pdparams`` or ``NAME.pdema`` of a training, or any other file of weights.
        choice: one of :data:`CHOICES`; None is the file that is named.

    Returns:
        One set, or the raw and then the averaged one for ``both``.

    Raises:
        UserError: there is only one set to choose from.
    """
    prefix = weights
    for suffix in (WEIGHTS, RAW_WEIGHTS):
        prefix = prefix[: -len(suffix)] if prefix.endswith(suffix) else prefix
    if not _has_both(prefix):
        if choice is None:
            return [KeptWeights("", weights)]
        raise UserError(
            f"--weights {choice} needs raw weights in {prefix}{RAW_WEIGHTS} beside averaged ones in {prefix}{WEIGHTS}, "
            "as a training with the section EMA saves them; leave --weights out to take the only ones",
            code="checkpoints.no-averaged",
            where=weights,
        )
    named = RAW if weights.endswith(RAW_WEIGHTS) else AVERAGED
    paths = {RAW: prefix + RAW_WEIGHTS, AVERAGED: prefix + WEIGHTS, named: weights}
    sets = {name: KeptWeights(name, path) for name, path in paths.items()}
    choice = choice or named
    return list(sets.values()) if choice == BOTH else [sets[choice]]


def _has_both(prefix: str) -> bool:
    """Whether both files are there, and the checkpoint, if it is one of ours, was saved with both."""
    if not all(Path(prefix + suffix).is_file() for suffix in (WEIGHTS, RAW_WEIGHTS)):
        return False
    digests = digests_beside(prefix)
    return digests is None or RAW_WEIGHTS in digests
