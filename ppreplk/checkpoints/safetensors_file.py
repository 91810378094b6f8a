"""Safetensors files, read and written with the ``safetensors`` library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..utils.errors import UserError
from .arrays import PlainArray, is_shape
from .pieces import BFLOAT16, Piece, width_of
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
MAX_HEADER = 16 << 20  # bytes; RepLKNet-XL's takes 100 kB, and the library would need gigabytes for its limit of 100 MB
METADATA = {"format": "ppreplk"}


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with ``head`` has the format's length and the start of its header."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def read_safetensors(data: Piece, path: Path) -> dict[str, PlainArray]:
    """Tensors by name, in the order of the file.

    The library checks the header, but its arrays are not used: it has none for bfloat16, and it reads through a
    mapping of its own, which doubles the memory. The values follow the header without gaps.

    Raises:
        UserError: the header is broken, describes other bytes than the file has, or has types that are not read.
    """
    length = int.from_bytes(data.read(0, 8), "little")
    if length > MAX_HEADER:
        raise UserError(f"refused, its header has {length} bytes, which no weights need", code="checkpoints.refused")
    pieces, position = {}, 8 + length
    try:
        with safe_open(path, framework="np") as file:
            described = [(name, file.get_slice(name)) for name in file.offset_keys()]
            tensors = [(name, piece.get_dtype(), piece.get_shape()) for name, piece in described]
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"a broken safetensors file ({shown(error)}); download it again", code="checkpoints.broken"
        ) from error
    for name, kind, shape in tensors:
        if kind not in DTYPES:
            raise UserError(
                f"{shown(name)} is of another type than {', '.join(DTYPES)}: {shown(kind)}",
                code="checkpoints.unsupported",
            )
        if not is_shape(shape):
            raise UserError(f"refused, {shown(name)} has a shape that no array has", code="checkpoints.refused")
        size = math.prod(shape) * width_of(DTYPES[kind])
        pieces[name] = PlainArray(data.part(position, size), DTYPES[kind], shape)
        position += size
    return pieces


def write_safetensors(state: Mapping[str, np.ndarray], path: Path) -> None:
    """Write float32 arrays. The file has the mode of every new file; the library's own is for its owner alone.

    Raises:
        OSError: the file cannot be written.
    """
    for name, array in state.items():
        assert array.dtype == np.float32, f"{name} is {array.dtype}"
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file({name: np.asarray(array, order="C") for name, array in state.items()}, path, METADATA)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
    path.chmod(mode)
