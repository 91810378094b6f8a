"""Checkpoint files as PyTorch writes them, written without PyTorch: the zip format and the one before 1.6."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

STORAGES = {
    "f4": "FloatStorage",
    "f8": "DoubleStorage",
    "f2": "HalfStorage",
    "i8": "LongStorage",
    "i4": "IntStorage",
    "i2": "ShortStorage",
    "i1": "CharStorage",
    "u1": "ByteStorage",
    "b1": "BoolStorage",
}
MAGIC = 0x1950A86A20F9469CFC6C


class Name:
    """A global name in a pickle, which need not exist here."""

    def __init__(self, module: str, name: str):
        self.place = (module, name)


class Storage:
    """Values of one type; ``kind`` is PyTorch's name of the type, the array's own unless given."""

    def __init__(self, values: np.ndarray, kind: str | None = None):
        self.values = np.ascontiguousarray(values).reshape(-1)
        self.kind = kind or STORAGES[self.values.dtype.str[1:]]


class Tensor:
    """A view of a storage; strides count values."""

    def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]):
        self.storage = storage
        self.arguments = (offset, shape, strides)

    @classmethod
    def of(cls, array: np.ndarray, kind: str | None = None) -> Tensor:
        array = np.asarray(array)
        strides = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
        return cls(Storage(array, kind), 0, array.shape, strides)


class TorchPickler(pickle._Pickler):
    """Numbers the storages as it meets them."""

    dispatch = dict(pickle._Pickler.dispatch)

    def __init__(self, file, old: bool):
        super().__init__(file, protocol=2)
        self.old = old
        self.storages: list[Storage] = []

    def persistent_id(self, value: Any) -> tuple | None:
        if not isinstance(value, Storage):
            return None
        if value not in self.storages:
            self.storages.append(value)
        pid = ("storage", Name("torch", value.kind), str(self.storages.index(value)), "cpu", len(value.values))
        return (*pid, None) if self.old else pid

    def save_name(self, value: Name) -> None:
        self.write(pickle.GLOBAL + "{}\n{}\n".format(*value.place).encode())

    def save_tensor(self, value: Tensor) -> None:
        self.save(Name("torch._utils", "_rebuild_tensor_v2"))
        self.save((value.storage, *value.arguments, False, OrderedDict()))
        self.write(pickle.REDUCE)

    dispatch[Name] = save_name
    dispatch[Tensor] = save_tensor


def write_zip(path: Path, content: Any) -> None:
    """``content`` with its :class:`Tensor` objects, in the zip format."""
    buffer = io.BytesIO()
    pickler = TorchPickler(buffer, old=False)
    pickler.dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, storage in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{key}", storage.values.tobytes())
        archive.writestr("archive/version", "3\n")


def write_old(path: Path, content: Any) -> None:
    """``content`` with its :class:`Tensor` objects, as PyTorch wrote it before 1.6."""
    with open(path, "wb") as file:
        for header in (MAGIC, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}):
            pickle.dump(header, file, protocol=2)
        pickler = TorchPickler(file, old=True)
        pickler.dump(content)
        pickle.dump([str(key) for key in range(len(pickler.storages))], file, protocol=2)
        for storage in pickler.storages:
            file.write(len(storage.values).to_bytes(8, "little") + storage.values.tobytes())


def as_torch(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights under our names in PyTorch's words: statistics, counters of batches, the head as (out, in)."""
    theirs = {}
    for name, array in state.items():
        stem, _, leaf = name.rpartition(".")
        leaf = {"_mean": "running_mean", "_variance": "running_var"}.get(leaf, leaf)
        theirs[f"{stem}.{leaf}"] = np.ascontiguousarray(array.T) if name == "head.weight" else array
        if leaf == "running_var":
            theirs[f"{stem}.num_batches_tracked"] = np.array(7, np.int64)
    return theirs


def tensors(state: dict[str, np.ndarray]) -> OrderedDict:
    """{name: :class:`Tensor`}, ordered as PyTorch has it."""
    return OrderedDict((name, Tensor.of(array)) for name, array in state.items())
