"""What the classes are called that weights were trained on, if their training wrote it down."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

WEIGHTS, STATES = ".pdparams", ".pdstates"


def digest(path: str | Path) -> str:
    """A digest of a file's content, by which files of one checkpoint know each other."""
    result = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            result.update(block)
    return result.hexdigest()


def trained_classes(weights: str | Path) -> list[str] | None:
    """Names of the classes in the order of their numbers, from ``NAME.pdstates`` beside ``NAME.pdparams``.

    None where it is not there, was not written with these weights, or knows no names.
    """
    prefix = str(weights)
    prefix = prefix[: -len(WEIGHTS)] if prefix.endswith(WEIGHTS) else prefix
    try:
        states = json.loads(Path(prefix + STATES).read_text(encoding="utf-8"))
        names, expected = states.get("classes"), states["digests"][WEIGHTS]
        if names and all(isinstance(name, str) for name in names) and digest(prefix + WEIGHTS) == expected:
            return list(names)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass  # such a file is of no use here; resuming says what is wrong with it
    return None
