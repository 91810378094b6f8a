"""Loading compiled operators into this process, for eager mode and for exported programs."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from paddle import _C_ops
from paddle.base import core

from ..errors import UserError
from .build import DENSE, DEPTHWISE, Library, build_library, find_library


def load_ops(fast: bool = False) -> None:
    """Make the compiled operators usable in this process, building them where that has not been done.

    An exported program that contains them needs this before it is loaded.

    Args:
        fast: also those of programs exported with ``Global.export_runtime=fast``.

    Raises:
        UserError: they cannot be built or loaded; says why.
    """
    load(DEPTHWISE)
    if fast:
        load(DENSE)


def load(library: Library) -> None:
    """As :func:`load_ops`, one library."""
    if not available(library):
        build_library(library)
        available.cache_clear()
        path = find_library(library)
        if path is None or not _register(path):
            raise UserError(f"{library.contents} in {path} cannot be loaded; delete that folder and try again")
    if library is DENSE and (reason := _onednn_mismatch()):
        raise UserError(f"{library.contents} cannot run: {reason}; use another Paddle, or Global.export_runtime=native")


@functools.cache
def available(library: Library) -> bool:
    """Whether the operators are loaded, or were built before and can be loaded now; nothing is built."""
    path = find_library(library)
    return path is not None and _register(path)


@functools.cache
def _register(path: Path) -> bool:
    try:
        core.load_op_meta_info_and_register_op(str(path))
    except (OSError, RuntimeError, ValueError):  # a library for another system, say
        return False
    return True


@functools.cache
def _onednn_mismatch() -> str | None:
    function = handle(DENSE).ppreplk_dense_mismatch
    function.restype = ctypes.c_char_p
    reason = function()
    return reason and reason.decode("ascii")


@functools.cache
def handle(library: Library) -> ctypes.CDLL:
    """The loaded library, for the functions in it that are no operators."""
    return ctypes.CDLL(str(find_library(library)))


def call(operator: str, *arguments):
    """Run an operator with one output."""
    return _C_ops._run_custom_op(operator, *arguments)[0]
