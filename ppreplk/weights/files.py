"""From a checkpoint file to a flat dict of arrays under our names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .layouts import from_official
from .torch_file import is_torch_zip, read_torch_zip
from .unpickle import CONTAINERS, NUMPY, unpickle

WRAPPERS = ("model", "state_dict")  # keys around the weights in PyTorch checkpoints


def load_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Read ``.pdparams`` (Paddle) or ``.pth`` (PyTorch zip format, official layout) without running its code.

    Args:
        path: the file; ``.pdparams`` may be left off.

    Returns:
        {parameter name: array} under the names of this package's networks.

    Raises:
        UserError: no such file, a broken one, or one that holds anything but weights.
    """
    path = find_checkpoint(path)
    if is_torch_zip(str(path)):
        content = read_torch_zip(str(path))
        for wrapper in WRAPPERS:
            if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
        return from_official(_arrays(content, path))
    return _arrays(load_arrays(path), path)


def load_arrays(path: str | Path) -> Any:
    """What ``paddle.save`` wrote, its tensors as arrays, without running code of the file.

    Raises:
        UserError: the file is broken, or holds anything but arrays, numbers, texts and containers.
    """
    with open(path, "rb") as file:
        return _paddle_entries(unpickle(file, str(path), {**CONTAINERS, **NUMPY}))


def find_checkpoint(path: str | Path) -> Path:
    """``path``, or ``path`` with the suffix ``.pdparams`` added.

    Raises:
        UserError: neither is a file.
    """
    candidates = [Path(path), Path(f"{path}.pdparams")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(f"no checkpoint at {candidates[0]} nor at {candidates[1]}")


def _paddle_entries(content: Any) -> Any:
    """``paddle.save`` stores a tensor as (internal name, array), and may add a table of internal names."""
    if not isinstance(content, Mapping):
        return content
    return {
        name: value[1] if isinstance(value, tuple) and len(value) == 2 else _paddle_entries(value)
        for name, value in content.items()
        if name != "StructuredToParameterName@@"
    }


def _arrays(content: Any, path: Path) -> dict[str, np.ndarray]:
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: holds {type(content).__name__}, not a table of weights")
    strange = [name for name, value in content.items() if not isinstance(value, np.ndarray)]
    if strange:
        raise UserError(f"{path}: {len(strange)} entries are not weights, {strange[0]!r} first")
    return dict(content)
