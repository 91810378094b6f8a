"""Pieces of a file: looked at where they lie, and read into memory of their own when they become arrays."""

from __future__ import annotations

import zlib
from typing import BinaryIO

import numpy as np

from ..utils.errors import UserError

BFLOAT16 = "bfloat16"  # numpy has no such type: its values are widened to float32


def width_of(dtype: str) -> int:
    """Bytes of one value."""
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize


class Piece:
    """``length`` bytes of an open file, from ``start``.

    The array made of a piece is read once, whoever asks for it, so that a file that refers to one piece many times
    takes no more memory than its own size. It does not share memory with the file, which may change afterwards.

    Args:
        file: stays open as long as its pieces are read.
        start: the first byte.
        length: how many bytes; the file has them.
        checksum: CRC-32 that the bytes must have, None where there is none.
    """

    def __init__(self, file: BinaryIO, start: int, length: int, checksum: int | None = None):
        self.file = file
        self._start = start
        self._length = length
        self._checksum = checksum
        self._array: np.ndarray | None = None
        self._dtype = ""

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, count: int) -> bytes:
        """Some of the bytes; all of them must lie inside.

        Raises:
            UserError: they do not, or the file has become shorter.
        """
        self._check_inside(start, count)
        self.file.seek(self._start + start)
        data = self.file.read(count)
        if len(data) != count:
            raise UserError("the file became shorter while it was read; read it again", code="checkpoints.broken")
        return data

    def head(self, count: int) -> bytes:
        """The first ``count`` bytes, or all where there are fewer."""
        return self.read(0, min(self._length, count))

    def part(self, start: int, count: int, checksum: int | None = None) -> Piece:
        """A piece of this piece.

        Raises:
            UserError: it does not lie inside.
        """
        self._check_inside(start, count)
        return Piece(self.file, self._start + start, count, checksum)

    def _check_inside(self, start: int, count: int) -> None:
        if start < 0 or count < 0 or start + count > self._length:
            raise UserError("the file is cut off; download or save it again", code="checkpoints.broken")

    def values(self, dtype: str) -> np.ndarray:
        """All bytes as a 1-D array, read-only and in this machine's byte order.

        Raises:
            UserError: the bytes have another checksum, are no whole number of values, or are already of another type.
        """
        if self._array is None:
            self._array, self._dtype = self._read_values(dtype), dtype
            self._array.flags.writeable = False  # other names may share it
        elif dtype != self._dtype:
            raise UserError("refused, the same bytes stand for arrays of two types", code="checkpoints.refused")
        return self._array

    def _read_values(self, dtype: str) -> np.ndarray:
        stored = np.dtype("<u2" if dtype == BFLOAT16 else dtype)
        count, rest = divmod(self._length, stored.itemsize)
        if rest:
            raise UserError(f"{self._length} bytes are no array of {dtype}", code="checkpoints.bad-array")
        array = np.empty(count, stored)
        raw = array.view(np.uint8)
        self.file.seek(self._start)
        if self.file.readinto(raw.data) != self._length:  # type: ignore[attr-defined]  # files have it
            raise UserError("the file became shorter while it was read; read it again", code="checkpoints.broken")
        if self._checksum is not None and zlib.crc32(raw.data) != self._checksum:
            raise UserError(
                "a tensor is damaged (its checksum differs); download the file again", code="checkpoints.broken"
            )
        if dtype == BFLOAT16:
            bits = array.astype(np.uint32)
            bits <<= 16  # bfloat16 is the upper half of float32
            return bits.view(np.float32)
        if not stored.isnative:
            array.byteswap(inplace=True)
            return array.view(stored.newbyteorder("="))
        return array
