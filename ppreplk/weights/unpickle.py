"""A pickle reader that builds arrays and plain containers and calls nothing else.

A pickle names functions to call, and ``pickle.load`` calls them: a checkpoint from a stranger can run any
code. Here every name is looked up in a table; one that is not in it is refused before anything is built.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from ..errors import UserError


class Callee:
    """A function a pickle may call and cannot change: without this, BUILD could rewrite its defaults."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise UserError("refused, it sets the state of a function")

    def __setattr__(self, name: str, value: Any) -> None:
        raise UserError("refused, it sets an attribute of a function")


def _encode(text: str, encoding: str) -> bytes:
    """What ``_codecs.encode`` does in numpy's pickles, for the one encoding it uses there."""
    if encoding != "latin1":
        raise UserError(f"refused: a pickled string in encoding {encoding!r}")
    return text.encode("latin1")


def _dtype(code: str, *_: Any) -> np.dtype:
    """A numeric dtype; one of Python objects would smuggle pickles into arrays."""
    dtype = np.dtype(code, False, True)  # a copy: its byte order may be set next
    if dtype.hasobject or dtype.kind not in "biufc":
        raise UserError(f"refused: an array of dtype {dtype}")
    return dtype


CONTAINERS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "tuple"): tuple,
    ("__builtin__", "tuple"): tuple,
}

_reconstruct = np.zeros(0).__reduce__()[0]
NUMPY: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): Callee(_dtype),
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): Callee(_encode),
}


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickler that resolves only the names in ``allowed``.

    Args:
        file: the pickle.
        path: name of the checkpoint, for messages.
        allowed: {(module, name): object} the pickle may refer to.
        persistent: builds the object behind a persistent id; without it, such ids are refused.
    """

    def __init__(
        self,
        file: BinaryIO,
        path: str,
        allowed: dict[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None = None,
    ):
        super().__init__(file)
        self._path = path
        self._allowed = allowed
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise UserError(
                f"{self._path}: refused, it names {module}.{name}, which no weights need; nothing of it was run"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise UserError(f"{self._path}: refused, it refers to storage outside the file")
        return self._persistent(pid)


def unpickle(file: BinaryIO, path: str, allowed: dict[tuple[str, str], Any], persistent=None) -> Any:
    """Load one pickle; a broken one is a :class:`UserError`, like a refused one."""
    try:
        return RestrictedUnpickler(file, path, allowed, persistent).load()
    except UserError:
        raise
    except Exception as error:  # whatever a broken or hostile pickle makes the reader raise
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__}: {error})") from error
