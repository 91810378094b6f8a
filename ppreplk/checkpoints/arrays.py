"""Arrays as files store them: bytes, a dtype, a shape. They become numpy arrays when asked, without a copy.

A pickle of numpy arrays names numpy's own functions and sets the state of numpy's own objects, which trust
what they are given. The stand-ins here take the same calls and check them.
"""

from __future__ import annotations

import math
import mmap
import re
from typing import Any, Protocol, Union, runtime_checkable

import numpy as np

from ..utils.errors import UserError
from .unpickle import Call, shown

Raw = Union[bytes, memoryview]
BFLOAT16 = "bfloat16"  # numpy has no such type: it is read as its upper half, float32
MAX_LENGTH = 1 << 48  # of one dimension: above, products and offsets leave the range of 64 bits
DTYPES = re.compile(r"[<>=|]?([biuf][1248]|\?)")


@runtime_checkable
class StoredArray(Protocol):
    """An array in a file."""

    def array(self) -> np.ndarray:
        """The array; it may be read-only and share the file's memory.

        Raises:
            UserError: the file does not hold what the array needs.
        """


def width_of(dtype: str) -> int:
    """Bytes of one value."""
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize


def values_of(raw: Raw, dtype: str) -> np.ndarray:
    """Raw little-endian bytes as a 1-D array; bfloat16 widened to float32, everything else in place."""
    if len(raw) == 0:
        return np.zeros(0, np.float32 if dtype == BFLOAT16 else dtype)
    if dtype == BFLOAT16:
        return widened(np.frombuffer(raw, "<u2"), raw)
    return np.frombuffer(raw, dtype)


def widened(halves: np.ndarray, raw: Raw) -> np.ndarray:
    """The bits of bfloat16 numbers, uint16, as the same numbers in float32; ``raw`` is where the bits lie."""
    bits = halves.astype(np.uint32)
    bits <<= 16
    if isinstance(raw, memoryview) and isinstance(raw.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        raw.obj.madvise(mmap.MADV_DONTNEED)  # the halves were read once: they need not stay in memory
    return bits.view(np.float32)


def is_shape(shape: Any) -> bool:
    """Whether this can be the shape of an array: at most 32 lengths, none negative or absurd."""
    fits = isinstance(shape, (tuple, list)) and len(shape) <= 32
    return fits and all(type(length) is int and 0 <= length < MAX_LENGTH for length in shape)


class PickledDtype:
    """``numpy.dtype`` in a pickle: boolean, integer or float; one of Python objects would smuggle pickles in."""

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or not DTYPES.fullmatch(code):
            raise UserError(
                f"refused: an array of dtype {shown(code) if isinstance(code, str) else type(code).__name__}",
                code="checkpoints.refused",
            )
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        """Take the byte order, the second entry, and nothing else."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise UserError("refused: a dtype in a state that no number has", code="checkpoints.refused")
        if state[1] in "<>":
            self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray:
    """``numpy.ndarray`` in a pickle."""

    def __init__(self, *_: Any):
        self._parts: tuple[Any, ...] = ((0,), np.dtype("f4"), False, b"")

    def build(self, state: Any) -> None:
        """(version, shape, dtype, whether columns come first, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise UserError("refused: an array in a state of another kind than numpy's", code="checkpoints.refused")
        _, shape, dtype, by_columns, raw = state
        self._set(shape, dtype, by_columns, raw)

    @classmethod
    def from_buffer(cls, raw: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
        """Protocol 5's form of the same."""
        array = cls()
        array._set(shape, dtype, order == "F", raw)
        return array

    def _set(self, shape: Any, dtype: Any, by_columns: Any, raw: Any) -> None:
        if not isinstance(dtype, PickledDtype) or not is_shape(shape) or not isinstance(raw, (bytes, memoryview)):
            raise UserError(
                "refused: an array that is not made of a shape, a dtype and bytes", code="checkpoints.refused"
            )
        needed = math.prod(shape) * dtype.dtype.itemsize
        if len(raw) != needed:
            raise UserError(
                f"an array of shape {list(shape)} needs {needed} bytes, the file gives it {len(raw)}",
                code="checkpoints.bad-array",
            )
        self._parts = (tuple(shape), dtype.dtype, bool(by_columns), raw)

    def bits(self) -> np.ndarray:
        """The array as it is stored, in this machine's byte order."""
        shape, dtype, by_columns, raw = self._parts
        array = values_of(raw, dtype.str).reshape(shape, order="F" if by_columns else "C")
        return array if dtype.isnative else array.astype(dtype.newbyteorder("="))

    def array(self) -> np.ndarray:
        """The array; Paddle stores bfloat16 as the uint16 of its bits."""
        bits = self.bits()
        return widened(bits, self._parts[-1]) if bits.dtype == np.uint16 else bits


def numpy_names() -> dict[tuple[str, str], Any]:
    """What pickles of numpy arrays refer to, for one file."""
    encoded: dict[int, tuple[str, bytes]] = {}

    def encode(text: Any, encoding: Any) -> bytes:
        """Bytes in protocol 2 are an encoded text. Each text once: a pickle can repeat it without end."""
        if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
            raise UserError("refused: a pickled string in another encoding than latin1", code="checkpoints.refused")
        if id(text) not in encoded:
            encoded[id(text)] = (text, text.encode("latin1"))  # the text too, so that its id stays its own
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
