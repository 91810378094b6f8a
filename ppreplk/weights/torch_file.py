"""PyTorch checkpoints (zip format, PyTorch 1.6 and later) without PyTorch.

Such a file is a zip archive with a pickle, ``*/data.pkl``, whose tensors refer by persistent id to raw
little-endian storages, ``*/data/<key>``.
"""

from __future__ import annotations

import collections
import math
import zipfile
import zlib
from typing import Any

import numpy as np

from ..errors import UserError
from .unpickle import CONTAINERS, Callee, unpickle

# numpy dtype of each storage class; bfloat16 is widened to float32 on reading
STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


def is_torch_zip(path: str) -> bool:
    return zipfile.is_zipfile(path)


def read_torch_zip(path: str) -> Any:
    """The unpickled content of a checkpoint, its tensors as numpy arrays.

    Raises:
        UserError: the file is broken, or its pickle names anything but tensors and plain containers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
        raise UserError(f"{path}: a broken or encrypted zip archive ({error}); download it again") from error


def _read(archive: zipfile.ZipFile, path: str) -> Any:
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UserError(f"{path}: not a PyTorch checkpoint: {len(pickles)} entries called data.pkl, expected 1")
    folder = pickles[0][: -len("data.pkl")]
    storages: dict[str, np.ndarray] = {}

    def storage(pid: Any) -> np.ndarray:
        kind, storage_class, key, _location, count = pid
        if kind != "storage" or storage_class not in STORAGES.values():
            raise UserError(f"{path}: refused, a persistent id that is no tensor storage")
        if key not in storages:
            width = 2 if storage_class == "bfloat16" else np.dtype(storage_class).itemsize
            size = archive.getinfo(f"{folder}data/{key}").file_size
            if size != count * width:  # before reading: a small archive can inflate to any size
                raise UserError(f"{path}: storage {key} holds {size} bytes, its tensor needs {count * width}")
            raw = archive.read(f"{folder}data/{key}")
            storages[key] = _bfloat16(raw) if storage_class == "bfloat16" else np.frombuffer(raw, storage_class)
        return storages[key]

    def tensor(values, offset, shape, strides, *_):
        if not isinstance(values, np.ndarray) or len(shape) != len(strides):
            raise UserError(f"{path}: refused, a tensor that is not built from a storage")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
        if offset < 0 or min(shape, default=1) < 0 or min(strides, default=0) < 0:
            raise UserError(f"{path}: refused, a tensor with negative offset, shape or stride")
        if 0 in shape:
            return np.zeros(shape, values.dtype)
        if last >= len(values) or math.prod(shape) > len(values):
            raise UserError(f"{path}: a tensor of shape {tuple(shape)} is larger than its storage")
        width = values.itemsize
        view = np.lib.stride_tricks.as_strided(values[offset:], shape, [stride * width for stride in strides])
        return np.ascontiguousarray(view).reshape(shape)

    allowed: dict[tuple[str, str], Any] = dict(CONTAINERS)
    allowed.update({("torch", name): dtype for name, dtype in STORAGES.items()})
    allowed["torch._utils", "_rebuild_tensor_v2"] = Callee(tensor)
    allowed["torch._utils", "_rebuild_parameter"] = Callee(lambda data, *_: data)
    allowed["collections", "OrderedDict"] = collections.OrderedDict
    with archive.open(pickles[0]) as file:
        return unpickle(file, path, allowed, storage)


def _bfloat16(raw: bytes) -> np.ndarray:
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
