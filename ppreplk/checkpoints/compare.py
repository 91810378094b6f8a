"""How the names and shapes of weights differ from those of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..models.registry import Shapes


@dataclass(frozen=True)
class Comparison:
    """How the names and shapes of weights differ from those of a network."""

    matched: int
    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    @property
    def is_match(self) -> bool:
        return not self.missing and not self.unexpected and not self.misshaped


def compare(own: Shapes, state: Mapping[str, np.ndarray]) -> Comparison:
    """Compare weights with the shapes of a network."""
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    misshaped = [name for name in own if name in state and own[name] != tuple(np.shape(state[name]))]
    return Comparison(len(own) - len(missing) - len(misshaped), missing, unexpected, misshaped)
