"""Loading compiled operators into this process, for eager mode and for exported programs."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from paddle import _C_ops
from paddle.base import core

from ..utils.errors import UserError
from .build import DENSE, DEPTHWISE, Library, build_library, find_library

# What Paddle has registered in this process, which it does once and for good.
_loaded: dict[Library, ctypes.CDLL] = {}


def load_ops(fast: bool = False) -> None:
    """Make the compiled operators usable in this process, building them where that has not been done.

    An exported program that contains them needs this before it is loaded.

    Args:
        fast: also those of programs exported with ``Global.export_runtime=fast``.

    Raises:
        UserError: they cannot be built or loaded; says why.
    """
    if fast:  # first, because its headers may not be there, which takes no minute to find out
        load(DENSE)
    load(DEPTHWISE)


def load(library: Library) -> None:
    """As :func:`load_ops`, one library."""
    if not available(library):
        _register(library, build_library(library))
    if library is DENSE and (reason := _onednn_mismatch()):
        raise UserError(f"{library.contents} cannot run: {reason}; use another Paddle, or Global.export_runtime=native")


def available(library: Library) -> bool:
    """Whether the operators are loaded, or were built before and can be loaded now; nothing is built."""
    return library in _loaded or _load_built(library)


@functools.cache
def _load_built(library: Library) -> bool:
    path = find_library(library)
    if path is None:
        return False
    try:
        _register(library, path)
    except UserError:  # a library for another system, say; load says so
        return False
    return True


def _register(library: Library, path: Path) -> None:
    try:
        opened = ctypes.CDLL(str(path))
        core.load_op_meta_info_and_register_op(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0].removeprefix(f"{path}: ")
        raise UserError(
            f"{library.contents} in {path} cannot be loaded ({reason}); delete that file and try again"
        ) from error
    _loaded[library] = opened


@functools.cache
def _onednn_mismatch() -> str | None:
    function = handle(DENSE).ppreplk_dense_mismatch
    function.restype = ctypes.c_char_p
    reason = function()
    return reason and reason.decode("ascii")


def handle(library: Library) -> ctypes.CDLL:
    """The loaded library, for the functions in it that are no operators.

    Raises:
        UserError: it is not :func:`available`.
    """
    if not available(library):
        how = "fast=True" if library is DENSE else ""
        raise UserError(f"{library.contents} are not loaded; call ppreplk.load_ops({how}) first")
    return _loaded[library]


def call(operator: str, *arguments):
    """Run an operator with one output."""
    return _C_ops._run_custom_op(operator, *arguments)[0]
