"""Checkpoint files of any format: found, opened, read, and reduced to the table of weights in them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..utils.errors import UserError
from .arrays import PickledArray, StoredArray
from .paddle_file import is_pickle, read_pickle
from .pieces import Piece
from .safetensors_file import is_safetensors, read_safetensors
from .torch_file import is_old_torch, is_torch_zip, read_old_torch, read_torch_zip
from .unpickle import shown
from .wrappers import unwrapped
from .wrong_files import beside, check_name, check_pickle, check_start, folder_error

logger = logging.getLogger(__name__)

HEAD = 512  # bytes that tell the format
MAX_SEARCHED = 1 << 20  # bytes in which a pickled model names the layers it is made of


class RawWeights(NamedTuple):
    """Arrays by the names they have in the file, and whether averaged ones lie beside them."""

    state: dict[str, np.ndarray]
    has_averaged: bool


def read_weights(path: Path, ema: bool = False) -> RawWeights:
    """The weights of a ``.pth`` (PyTorch), ``.safetensors``, ``.pdparams`` or ``.pkl`` (MegEngine) file.

    The format is told from the content. Nothing in the file is executed. The arrays are read-only and have memory of
    their own, about the size of the tensors: the file may be changed or replaced afterwards. Arrays of tensors that
    share a storage share their memory.

    Args:
        path: the file.
        ema: take the averaged weights a training has put beside its own.

    Raises:
        UserError: a broken file, or one that holds anything but weights.
    """
    with _about(path), _opened(path) as data:
        found = unwrapped(_read(data, path), ema)
        if found.remark:
            logger.info("%s: %s", path, found.remark)
        return RawWeights(_arrays(found.table), found.has_averaged)


def load_arrays(path: str | Path) -> Any:
    """What ``paddle.save`` wrote, its tensors as arrays (bfloat16 as its bits), without running code of the file.

    Raises:
        UserError: the file is broken, or holds anything but arrays, numbers, texts and containers.
    """

    def leaf(value: Any) -> Any:
        return _array(value.bits) if isinstance(value, PickledArray) else value

    with _about(path), _opened(path) as data:
        return read_pickle(data, leaf)


def find_checkpoint(path: str | Path) -> Path:
    """``path``, or ``path`` with the suffix ``.pdparams`` added.

    Raises:
        UserError: neither is a file, or it is a folder.
    """
    plain, suffixed = Path(path), Path(f"{path}.pdparams")
    with _about(path), _system_errors():
        for candidate in (plain, suffixed):
            if candidate.is_file():
                return candidate
        if plain.is_dir():
            raise folder_error(plain)
        others = beside(plain)
    hint = f"; there is {others}" if others else ""
    raise UserError(f"no checkpoint at {plain} nor at {suffixed}{hint}", code="checkpoints.no-file")


@contextmanager
def _about(path: str | Path) -> Iterator[None]:
    """Begin the messages of errors with the file they are about."""
    try:
        yield
    except UserError as error:
        raise error.at(path) from error


@contextmanager
def _system_errors() -> Iterator[None]:
    """What the system says about a file, as an error of the user's."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror or error})", code="checkpoints.not-readable") from error


@contextmanager
def _opened(path: str | Path) -> Iterator[Piece]:
    """The whole of a file, as long as it is open."""
    with _system_errors(), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise UserError("empty; download it again", code="checkpoints.not-readable")
        yield Piece(file, 0, size)


def _read(data: Piece, path: Path) -> Any:
    check_name(path)
    head = data.head(HEAD)
    if is_safetensors(head):
        return read_safetensors(data, path)
    try:
        if is_torch_zip(head):
            return read_torch_zip(data)
        if is_old_torch(head):
            return read_old_torch(data)
        if is_pickle(head):
            return read_pickle(data)
    except UserError as error:
        if error.code == "checkpoints.refused":
            check_pickle(data.head(MAX_SEARCHED), error)
        raise
    check_start(head)
    raise UserError(
        "not a readable checkpoint (.pth, .safetensors, .pdparams or .pkl); download it again",
        code="checkpoints.not-readable",
    )


def _arrays(content: Any) -> dict[str, np.ndarray]:
    if not isinstance(content, Mapping) or not content:
        raise UserError("holds no table of weights", code="checkpoints.no-weights")
    strange = [n for n, value in content.items() if not isinstance(n, str) or not isinstance(value, StoredArray)]
    if strange:
        raise UserError(
            f"{len(strange)} entries are not weights, {shown(strange[0])!r} first", code="checkpoints.no-weights"
        )
    arrays = {}
    for name, stored in content.items():
        with _about(shown(name)):
            arrays[name] = _array(stored.array)
    return arrays


def _array(make: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return make()
    except UserError:
        raise
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise UserError(
            f"not an array that can be read ({error}); download the file again", code="checkpoints.bad-array"
        ) from error
