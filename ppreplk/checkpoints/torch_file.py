"""PyTorch checkpoints without PyTorch: the zip format, and the one before PyTorch 1.6.

Both hold a pickle whose tensors refer by persistent id to raw little-endian storages. In the zip format these
are uncompressed entries of the archive, beside the pickle. In the older one they follow the pickle, in the order
of a list of their keys.
"""

from __future__ import annotations

import math
import struct
import zipfile
from typing import Any

import numpy as np

from ..utils.errors import UserError
from .arrays import is_shape, numpy_names
from .pieces import BFLOAT16, Piece, width_of
from .unpickle import Call, Refused, shown, unpickle
from .wrong_files import check_archive

STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}
QUANTIZED = ("QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage")
OTHER_TENSORS = {
    "_rebuild_sparse_tensor": "sparse tensors are not read; save dense ones",
    "_rebuild_sparse_csr_tensor": "sparse tensors are not read; save dense ones",
    "_rebuild_qtensor": "quantized tensors are not read; save floating-point weights",
    "_rebuild_meta_tensor_no_storage": "a tensor without values",
    "_rebuild_nested_tensor": "nested tensors are not read",
}

ZIP = b"PK\x03\x04"
MAGIC = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."  # a pickled number opens the older format
OLD_VERSION = 1001
ZIP_ERRORS = (
    *(zipfile.BadZipFile, NotImplementedError, struct.error, OSError, EOFError),
    *(ValueError, LookupError, OverflowError, MemoryError),
)
LOCAL_HEADER = struct.Struct("<4s22xHH")


class Storage:
    """``count`` values of one type in a file; ``piece`` is given once it is known where they lie."""

    def __init__(self, dtype: str, count: int):
        self.dtype = dtype
        self.count = count
        self.piece: Piece | None = None

    def values(self) -> np.ndarray:
        if self.piece is None:
            raise UserError("a tensor's storage is missing", code="checkpoints.broken")
        return self.piece.values(self.dtype)


class StoredTensor:
    """A view of a storage; ``offset`` and ``strides`` count values."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any):
        if not isinstance(storage, Storage):
            raise UserError("refused, a tensor that is not built from a storage", code="checkpoints.refused")
        if not is_shape(shape) or not is_shape(strides) or len(shape) != len(strides) or not is_shape((offset,)):
            raise UserError("refused, a tensor with an impossible offset, shape or stride", code="checkpoints.refused")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
        if 0 not in shape and (last >= storage.count or math.prod(shape) > storage.count):
            raise UserError(
                f"a tensor of shape {list(shape)} is larger than its storage of {storage.count} values",
                code="checkpoints.broken",
            )
        self._storage = storage
        self._view = (offset, tuple(shape), tuple(strides))

    def array(self) -> np.ndarray:
        offset, shape, strides = self._view
        values = self._storage.values()
        if 0 in shape:
            return np.zeros(shape, values.dtype)
        steps = [stride * values.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)


def _parameter(data: Any, *_: Any) -> StoredTensor:
    if not isinstance(data, StoredTensor):
        raise UserError("refused, a parameter that is not a tensor", code="checkpoints.refused")
    return data


TENSORS: dict[tuple[str, str], Any] = {
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
    **{("torch", name): Refused("quantized tensors are not read; save floating-point weights") for name in QUANTIZED},
    **{("torch._utils", name): Refused(reason) for name, reason in OTHER_TENSORS.items()},
    ("torch._utils", "_rebuild_tensor"): Call(StoredTensor),
    ("torch._utils", "_rebuild_tensor_v2"): Call(StoredTensor),
    ("torch._utils", "_rebuild_parameter"): Call(_parameter),
    ("torch.nn.parameter", "Parameter"): Call(_parameter),
}


class _Storages:
    """Storages by the keys persistent ids give them."""

    def __init__(self) -> None:
        self.by_key: dict[str, Storage] = {}

    def find(self, pid: Any, parts: int) -> Storage:
        """The storage behind ("storage", type, key, device, count, ...)."""
        if not isinstance(pid, tuple) or len(pid) != parts or pid[0] != "storage":
            raise UserError("refused, a persistent id that is no tensor storage", code="checkpoints.refused")
        _, dtype, key, _, count = pid[:5]
        if dtype not in STORAGES.values() or not isinstance(key, str) or type(count) is not int or count < 0:
            raise UserError("refused, a persistent id that is no tensor storage", code="checkpoints.refused")
        storage = self.by_key.setdefault(key, Storage(dtype, count))
        if (storage.dtype, storage.count) != (dtype, count):
            raise UserError(f"refused, storage {shown(key)} is of two kinds", code="checkpoints.refused")
        return storage


def is_torch_zip(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is an archive."""
    return head.startswith(ZIP)


def is_old_torch(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is of the format before PyTorch 1.6."""
    return MAGIC in head[:32]


def read_torch_zip(data: Piece) -> Any:
    """The unpickled content of a zip-format checkpoint, its tensors as :class:`StoredTensor`.

    Raises:
        UserError: the archive is broken or none of PyTorch's, or its pickle is refused.
    """
    entries = _entries(data)
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) > 1:
        raise UserError(
            f"not a PyTorch checkpoint: {len(pickles)} entries called data.pkl, expected 1",
            code="checkpoints.not-readable",
        )
    folder = pickles[0][: -len("data.pkl")]
    order = entries.get(f"{folder}byteorder")
    if order is not None and _content(order, data).head(8) != b"little":
        raise UserError(
            "written on a big-endian machine, which is not read; save it on another one", code="checkpoints.unsupported"
        )
    storages = _Storages()

    def persistent(pid: Any) -> Storage:
        storage = storages.find(pid, 5)
        if storage.piece is None:
            entry = entries.get(f"{folder}data/{pid[2]}")
            needed = storage.count * width_of(storage.dtype)
            if entry is None:
                raise UserError(f"storage {shown(pid[2])} is missing", code="checkpoints.broken")
            if entry.file_size != needed:
                raise UserError(
                    f"storage {pid[2]} holds {entry.file_size} bytes, its tensor needs {needed}",
                    code="checkpoints.broken",
                )
            storage.piece = _content(entry, data)
        return storage

    content, _ = unpickle(_content(entries[pickles[0]], data), {**numpy_names(), **TENSORS}, persistent)
    return content


def _entries(data: Piece) -> dict[str, zipfile.ZipInfo]:
    """Entries by name, after a look that they are plain pieces of the file, each of its own."""
    try:
        with zipfile.ZipFile(data.file) as archive:
            infos = archive.infolist()
    except ZIP_ERRORS as error:
        raise UserError(f"a broken zip archive ({error}); download it again", code="checkpoints.broken") from error
    check_archive([info.filename for info in infos])
    entries = {}
    for info in infos:
        name = info.filename
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or ":" in name.split("/")[0]:
            raise UserError(
                f"refused, its archive has an entry outside the archive, {shown(name)}", code="checkpoints.refused"
            )
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise UserError(
                f"refused, {shown(name)} is compressed or encrypted, which PyTorch never does",
                code="checkpoints.refused",
            )
        if name in entries:
            raise UserError(f"refused, its archive has two entries called {shown(name)}", code="checkpoints.refused")
        entries[name] = info
    if sum(info.file_size for info in infos) > len(data):
        raise UserError("refused, the entries of its archive are larger than the file", code="checkpoints.refused")
    return entries


def _content(info: zipfile.ZipInfo, data: Piece) -> Piece:
    """Where an uncompressed entry lies; its local header may be longer than the central one says."""
    try:
        head = data.read(info.header_offset, LOCAL_HEADER.size)
        signature, name_length, extra_length = LOCAL_HEADER.unpack(head)
        if signature != ZIP:
            raise UserError("there is no entry at its place", code="checkpoints.broken")
        start = info.header_offset + LOCAL_HEADER.size + name_length + extra_length
        return data.part(start, info.file_size, info.CRC)
    except UserError as error:
        raise error.at(f"the archive's entry {shown(info.filename)}") from error


def read_old_torch(data: Piece) -> Any:
    """The unpickled content of a checkpoint from before PyTorch 1.6, its tensors as :class:`StoredTensor`.

    Raises:
        UserError: the file is broken, or its pickle is refused.
    """
    names = {**numpy_names(), **TENSORS}
    storages = _Storages()

    def persistent(pid: Any) -> Storage:
        if isinstance(pid, tuple) and len(pid) == 6 and pid[5] is not None:
            raise UserError(
                "refused, a view of a storage as PyTorch 0.3 wrote it; save it with a newer one",
                code="checkpoints.unsupported",
            )
        return storages.find(pid, 6)

    _, position = unpickle(data, {})
    version, position = unpickle(data, {}, start=position)
    system, position = unpickle(data, {}, start=position)
    if version != OLD_VERSION or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UserError(
            f"not a PyTorch checkpoint of version {OLD_VERSION} from a little-endian machine",
            code="checkpoints.not-readable",
        )
    content, position = unpickle(data, names, persistent, start=position)
    keys, position = unpickle(data, {}, start=position)
    if not isinstance(keys, list):
        raise UserError("broken, its list of storages is missing; download it again", code="checkpoints.broken")
    for key in keys:
        storage = storages.by_key.get(key) if isinstance(key, str) else None
        if storage is None or storage.piece is not None:
            raise UserError(
                "broken, it lists a storage that no tensor or more than one place has", code="checkpoints.broken"
            )
        size = storage.count * width_of(storage.dtype)
        if int.from_bytes(data.read(position, 8), "little") != storage.count:
            raise UserError(
                f"storage {shown(key)} has another size than its tensor; download it again", code="checkpoints.broken"
            )
        storage.piece = data.part(position + 8, size)
        position += 8 + size
    return content
