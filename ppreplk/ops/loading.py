"""Loading the operators in C++ into this process, for eager mode and for exported programs."""

from __future__ import annotations

import ctypes
import functools
import logging
from pathlib import Path

import paddle
from paddle import _C_ops
from paddle.base import core

from ..utils.errors import UserError, nearest
from .build import CHANNELS_LAST, DEPTHWISE, Library, build_library, find_library, find_prebuilt
from .cache import ELSEWHERE

logger = logging.getLogger(__name__)

LIBRARIES = {library.name: library for library in (DEPTHWISE, CHANNELS_LAST)}
DEFAULT = DEPTHWISE.name
# What the system says of a file that may not be loaded where it is. Building it again there does not help.
FORBIDDEN = ("failed to map segment", "Operation not permitted", "Permission denied")

# What Paddle has registered in this process. It does that once, and nothing undoes it.
_loaded: dict[Library, ctypes.CDLL] = {}


def load_ops(*names: str, fast: bool = False) -> None:
    """Make operators in C++ usable in this process, building them first where that has not been done.

    An exported program that contains some needs this before it is loaded.

    Args:
        names: ``"depthwise"`` for the depthwise convolution, ``"channels_last"`` for the other layers of programs
            exported with ``Global.export_runtime=channels_last``. Without names: ``"depthwise"``.
        fast: old name of ``load_ops("depthwise", "channels_last")``.

    Raises:
        UserError: unknown name, or they cannot be built or loaded; says why.
    """
    if fast:
        _announce_rename()
        names = (DEPTHWISE.name, CHANNELS_LAST.name)
    for library in libraries(*names):
        load(library)


def libraries(*names: str) -> list[Library]:
    """The libraries of these names, each once; the default one without names.

    Raises:
        UserError: unknown name.
    """
    for name in names:
        if name not in LIBRARIES:
            raise UserError(f"unknown operators {name!r}{nearest(name, LIBRARIES)}", code="ops.unknown-library")
    found = {LIBRARIES[name] for name in names or [DEFAULT]}
    # Those that need oneDNN come first: if its headers are missing, that shows before a minute of compiling.
    return sorted(found, key=lambda library: (not library.onednn, library.name))


@functools.cache
def _announce_rename() -> None:
    """Once per process."""
    logger.info("load_ops(fast=True) is written load_ops('depthwise', 'channels_last') now")


def load(library: Library) -> None:
    """As :func:`load_ops`, one library."""
    if not available(library):
        _register(library, build_library(library))
    if library is CHANNELS_LAST and (reason := _onednn_mismatch()):
        raise UserError(
            f"{library.contents} cannot run: {reason}; use another Paddle, or Global.export_runtime=native",
            code="ops.no-onednn",
        )


def available(library: Library) -> bool:
    """Whether the operators are loaded, or came with the wheel or were built before and load now; builds nothing."""
    return library in _loaded or _load_built(library)


@functools.cache
def _load_built(library: Library) -> bool:
    for find in (find_prebuilt, find_library):
        path = find(library)
        try:
            if path is not None:
                _register(library, path)
                return True
        except UserError:  # for example a library for another system; load() reports it
            pass
    return False


def _register(library: Library, path: Path) -> None:
    try:
        opened = ctypes.CDLL(str(path))
        core.load_op_meta_info_and_register_op(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0].removeprefix(f"{path}: ")
        is_forbidden = any(text in reason for text in FORBIDDEN)
        advice = f"its file system does not allow it; {ELSEWHERE}" if is_forbidden else "delete that file and try again"
        raise UserError(
            f"{library.contents} in {path} cannot be loaded ({reason}); {advice}",
            code="ops.not-loadable",
        ) from error
    _loaded[library] = opened


@functools.cache
def _onednn_mismatch() -> str | None:
    function = handle(CHANNELS_LAST).ppreplk_channels_last_mismatch
    function.restype = ctypes.c_char_p
    reason = function()
    return reason and reason.decode("ascii")


def handle(library: Library) -> ctypes.CDLL:
    """The loaded library, for the functions in it that are not operators.

    Raises:
        UserError: it is not :func:`available`.
    """
    if not available(library):
        raise UserError(
            f'{library.contents} are not loaded; call ppreplk.load_ops("{library.name}") first', code="ops.not-loaded"
        )
    return _loaded[library]


def call(operator: str, *arguments: object) -> paddle.Tensor:
    """Run an operator; returns its first output. Others are for its gradient."""
    if paddle.in_dynamic_mode() and not paddle.is_grad_enabled():
        # Paddle would record an operator of ours for a backward pass all the same, and keep its inputs for it.
        arguments = tuple(value.detach() if isinstance(value, paddle.Tensor) else value for value in arguments)
    return _C_ops._run_custom_op(operator, *arguments)[0]  # type: ignore[attr-defined]  # in C++, without stubs
