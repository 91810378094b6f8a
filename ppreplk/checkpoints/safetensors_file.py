"""Safetensors files: eight bytes with the length of a JSON header, the header, the values.

Source: the format's own description, which also bounds the header and forbids gaps between tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.errors import UserError
from .arrays import BFLOAT16, is_shape, values_of, width_of
from .unpickle import shown

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": BFLOAT16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
LONGEST_HEADER = 16 << 20  # bytes; RepLKNet-XL's takes 100 kB
METADATA = "__metadata__"
ALIGNMENT = 8


class StoredPiece:
    """A tensor: its raw bytes, dtype and shape."""

    def __init__(self, raw: memoryview, dtype: str, shape: list[int]):
        self._parts = (raw, dtype, shape)

    def array(self) -> np.ndarray:
        raw, dtype, shape = self._parts
        return values_of(raw, dtype).reshape(shape)


def is_safetensors(data: memoryview) -> bool:
    return len(data) > 9 and int.from_bytes(data[:8], "little") <= len(data) - 8 and data[8:9] == b"{"


def read_safetensors(data: memoryview) -> dict[str, StoredPiece]:
    """Tensors by name.

    Raises:
        UserError: the header is not one, or describes other bytes than the file has.
    """
    length = int.from_bytes(data[:8], "little")
    if length > LONGEST_HEADER:
        raise UserError(f"refused, its header has {length} bytes, which no weights need")
    try:
        header = json.loads(bytes(data[8 : 8 + length]).decode("utf-8"), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise UserError(f"a broken safetensors header ({error}); download it again") from error
    header.pop(METADATA, None)
    values = data[8 + length :]
    pieces, spans = {}, []
    for name, entry in header.items():
        dtype, shape, begin, end = _checked(entry, name)
        if end > len(values):
            raise UserError(f"{shown(name)} lies outside the file; download it again")
        pieces[name] = StoredPiece(values[begin:end], dtype, shape)
        spans.append((begin, end))
    spans.sort()
    if any(end > begin for (_, end), (begin, _) in zip(spans, spans[1:])):
        raise UserError("refused, tensors of it overlap")
    return pieces


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _checked(entry: Any, name: str) -> tuple[str, list[int], int, int]:
    """dtype, shape, begin and end of one tensor."""
    if not isinstance(entry, dict) or not is_shape(entry.get("shape")) or not is_shape(entry.get("data_offsets")):
        raise UserError(f"broken, {shown(name)} is not described by dtype, shape and data_offsets")
    kind, shape, span = entry.get("dtype"), entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        kinds = ", ".join(DTYPES)
        raise UserError(
            f"{shown(name)} is of another type than {kinds}" + (f": {shown(kind)}" if isinstance(kind, str) else "")
        )
    dtype = DTYPES[kind]
    if len(span) != 2 or span[1] - span[0] != math.prod(shape) * width_of(dtype):
        raise UserError(f"broken, the bytes of {shown(name)} do not make its shape {shape}")
    return dtype, shape, span[0], span[1]


def write_safetensors(state: Mapping[str, np.ndarray], path: Path) -> None:
    """Write float32 arrays, one at a time.

    Raises:
        OSError: the file cannot be written.
    """
    header: dict[str, Any] = {METADATA: {"format": "ppreplk"}}
    position = 0
    for name, array in state.items():
        assert array.dtype == np.float32, f"{name} is {array.dtype}"
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in state.values():
            file.write(np.ascontiguousarray(array).astype("<f4", copy=False).data)
