"""What the classes are called that weights were trained on, if their training wrote it down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..utils.digests import blake2b_of

WEIGHTS, STATES = ".pdparams", ".pdstates"


def trained_classes(weights: str | Path) -> list[str] | None:
    """Names of the classes in the order of their numbers, from ``NAME.pdstates`` beside ``NAME.pdparams``.

    None where it is not there, was not written with these weights, or knows no names.
    """
    names = _states(weights).get("classes")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return list(names)
    return None


def trained_metric(weights: str | Path) -> dict[str, Any] | None:
    """The evaluation of these weights during their training, and the epoch after which it was; None as above.

    Only those of the best epoch so far have one, which is what ``best_model`` holds.
    """
    states = _states(weights)
    metric, epoch = states.get("best_metric"), states.get("epoch")
    if not isinstance(metric, float) or metric < 0 or epoch != states.get("best_epoch") or states.get("iteration"):
        return None
    return {"metric": metric, "epoch": epoch}


def digests_beside(weights: str | Path) -> dict[str, str] | None:
    """{suffix: digest} of the files that were saved with these weights; None as above."""
    return _states(weights).get("digests")


def _states(weights: str | Path) -> dict[str, Any]:
    """``NAME.pdstates`` beside ``NAME.pdparams``; empty where it is not there or was not written with these weights."""
    prefix = str(weights)
    prefix = prefix[: -len(WEIGHTS)] if prefix.endswith(WEIGHTS) else prefix
    try:
        states = json.loads(Path(prefix + STATES).read_text(encoding="utf-8"))
        if blake2b_of(prefix + WEIGHTS) == states["digests"][WEIGHTS]:
            return dict(states)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass  # such a file is of no use here; resuming says what is wrong with it
    return {}
