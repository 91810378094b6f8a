"""Arrays that files describe by bytes, a dtype and a shape, and that are read when asked for.

A pickle of numpy arrays names numpy's own functions and sets the state of numpy's own objects, which trust
what they are given. The stand-ins here take the same calls and check them.
"""

from __future__ import annotations

import io
import math
import re
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..utils.errors import UserError
from .pieces import BFLOAT16, Piece
from .unpickle import Call, shown

MAX_LENGTH = 1 << 48  # of one dimension: above, products and offsets leave the range of 64 bits
MAX_DIMENSIONS = 32  # numpy's own limit
DTYPES = re.compile(r"[<>=|]?([biuf][1248]|\?)")


@runtime_checkable
class StoredArray(Protocol):
    """An array in a file."""

    def array(self) -> np.ndarray:
        """The array, read-only and in memory of its own; arrays of one file may share it.

        Raises:
            UserError: the file does not hold what the array needs.
        """


class PlainArray:
    """The bytes of one array, in C order."""

    def __init__(self, piece: Piece, dtype: str, shape: list[int]):
        self._parts = (piece, dtype, shape)

    def array(self) -> np.ndarray:
        piece, dtype, shape = self._parts
        return piece.values(dtype).reshape(shape)


def is_shape(shape: Any) -> bool:
    """Whether this can be the shape of an array: not too many lengths, none negative or absurd."""
    fits = isinstance(shape, (tuple, list)) and len(shape) <= MAX_DIMENSIONS
    return fits and all(type(length) is int and 0 <= length < MAX_LENGTH for length in shape)


class PickledDtype:
    """``numpy.dtype`` in a pickle: boolean, integer or float; one of Python objects would smuggle pickles in."""

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or not DTYPES.fullmatch(code):
            raise UserError(
                f"refused, an array of dtype {shown(code) if isinstance(code, str) else type(code).__name__}",
                code="checkpoints.refused",
            )
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        """Take the byte order, the second entry, and nothing else."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise UserError("refused, a dtype in a state that no number has", code="checkpoints.refused")
        if state[1] in "<>":
            self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray:
    """``numpy.ndarray`` in a pickle."""

    def __init__(self, *_: Any):
        self._set((0,), PickledDtype("f4"), False, b"")

    def build(self, state: Any) -> None:
        """(version, shape, dtype, whether columns come first, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise UserError("refused, an array in a state of another kind than numpy's", code="checkpoints.refused")
        _, shape, dtype, by_columns, raw = state
        self._set(shape, dtype, by_columns, raw)

    @classmethod
    def from_buffer(cls, raw: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
        """Protocol 5's form of the same."""
        array = cls()
        array._set(shape, dtype, order == "F", raw)
        return array

    def _set(self, shape: Any, dtype: Any, by_columns: Any, raw: Any) -> None:
        if isinstance(raw, bytes):
            raw = in_memory(raw)
        if not isinstance(dtype, PickledDtype) or not is_shape(shape) or not isinstance(raw, Piece):
            raise UserError(
                "refused, an array that is not made of a shape, a dtype and bytes", code="checkpoints.refused"
            )
        needed = math.prod(shape) * dtype.dtype.itemsize
        if len(raw) != needed:
            raise UserError(
                f"an array of shape {list(shape)} needs {needed} bytes, the file gives it {len(raw)}",
                code="checkpoints.bad-array",
            )
        self._parts = (tuple(shape), dtype.dtype.str, bool(by_columns), raw)

    def bits(self) -> np.ndarray:
        """The array as it is stored, bfloat16 as the uint16 of its bits."""
        return self._read(self._parts[1])

    def array(self) -> np.ndarray:
        """The array, bfloat16 as float32. Paddle stores it as the uint16 of its bits, which no weights are."""
        dtype = self._parts[1]
        if dtype == ">u2":
            raise UserError("bfloat16 from a big-endian machine is not read", code="checkpoints.unsupported")
        return self._read(BFLOAT16 if dtype == "<u2" else dtype)

    def _read(self, dtype: str) -> np.ndarray:
        shape, _, by_columns, piece = self._parts
        return piece.values(dtype).reshape(shape, order="F" if by_columns else "C")


def in_memory(data: bytes) -> Piece:
    """Bytes that are no piece of the file any more."""
    return Piece(io.BytesIO(data), 0, len(data))


def numpy_names() -> dict[tuple[str, str], Any]:
    """What pickles of numpy arrays refer to, for one file."""
    encoded: dict[int, tuple[str, Piece]] = {}

    def encode(text: Any, encoding: Any) -> Piece:
        """Bytes in protocol 2 are an encoded text. Each text once: a pickle can repeat it without end."""
        if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
            raise UserError("refused, a pickled string in another encoding than latin1", code="checkpoints.refused")
        if id(text) not in encoded:
            encoded[id(text)] = (text, in_memory(text.encode("latin1")))  # the text too, so that its id stays its own
        return encoded[id(text)][1]

    names: dict[tuple[str, str], Any] = {("_codecs", "encode"): Call(encode)}
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = Call(PickledArray)
        names[f"{core}.numeric", "_frombuffer"] = Call(PickledArray.from_buffer)
    for builtins in ("builtins", "__builtin__"):
        names[builtins, "bytes"] = Call(lambda: b"")  # protocol 2's form of an empty array's bytes
    names["numpy", "dtype"] = Call(PickledDtype)
    names["numpy", "ndarray"] = "numpy.ndarray"  # an argument of _reconstruct
    return names
