"""What ``paddle.save`` writes, ``.pdparams`` and its kin, and MegEngine's ``.pkl``: pickles of numpy arrays."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.errors import UserError
from .arrays import PickledArray, numpy_names
from .pieces import Piece
from .unpickle import Call, unpickle

PROTOCOL = 4
STARTS = (pickle.PROTO, pickle.GLOBAL, pickle.MARK, pickle.EMPTY_DICT)
TABLE = "StructuredToParameterName@@"  # Paddle's table of internal names
MAX_DEPTH = 8  # mappings in mappings


class _Tensor:
    """A MegEngine tensor: an array, its dtype and its device."""

    def __init__(self, stored: Any, *_: Any):
        if not isinstance(stored, PickledArray):
            raise UserError("refused, a tensor that is not made of an array", code="checkpoints.refused")
        self._stored = stored

    def build(self, state: Any) -> None:
        """Ignore quantization settings."""

    def array(self) -> np.ndarray:
        return self._stored.array()


MEGENGINE = {
    (module, name): Call(_Tensor)
    for module in ("megengine.tensor", "megengine.core.tensor.tensor", "megengine")
    for name in ("Tensor", "Parameter")
}


def is_pickle(head: bytes) -> bool:
    """Whether a file that begins with ``head`` may be a pickle."""
    return head[:1] in STARTS


def read_pickle(data: Piece, leaf: Callable[[Any], Any] = lambda value: value) -> Any:
    """The content of the file, ``leaf`` applied to all in its tables; arrays are a :class:`StoredArray`.

    Raises:
        UserError: the file is broken, or holds anything but arrays, numbers, texts and containers.
    """
    content, _ = unpickle(data, {**numpy_names(), **MEGENGINE})
    return _entries(content, leaf, {})


def _entries(content: Any, leaf: Callable[[Any], Any], done: dict[int, dict], depth: int = 0) -> Any:
    """``paddle.save`` may store a tensor as (internal name, array), and add a table of internal names."""
    if not isinstance(content, Mapping):
        return leaf(content)
    if depth > MAX_DEPTH:
        raise UserError(f"refused, it nests more than {MAX_DEPTH} tables", code="checkpoints.refused")
    if id(content) not in done:  # a pickle may hold the same table many times
        table = done[id(content)] = {}
        for name, value in content.items():
            if name != TABLE:
                is_pair = isinstance(value, tuple) and len(value) == 2
                table[name] = _entries(value[1] if is_pair else value, leaf, done, depth + 1)
    return done[id(content)]


def write_pdparams(state: Mapping[str, np.ndarray], path: Path) -> None:
    """Write arrays as ``paddle.load`` reads them, one at a time.

    Raises:
        OSError: the file cannot be written.
    """
    with open(path, "wb") as file:
        pickler = pickle.Pickler(file, PROTOCOL)
        pickler.fast = True  # no memo, which would keep a copy of every array until the end
        pickler.dump(dict(state))
