"""The folder where compiled libraries are kept. Nothing here imports a framework.

A library appears there as a whole or not at all. If several processes want it, one builds it and the others wait.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..utils.errors import UserError

logger = logging.getLogger(__name__)

ELSEWHERE = "set XDG_CACHE_HOME to a folder on another one"  # another file system


def cache_folder() -> Path:
    """Where libraries are kept: ``$XDG_CACHE_HOME/ppreplk``, by default ``~/.cache/ppreplk``.

    Raises:
        UserError: there is no home folder: ``HOME`` is not set, and the system does not know the user.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ppreplk"
    except RuntimeError as error:
        raise UserError(
            "this user has no home folder to keep compiled operators in; set XDG_CACHE_HOME to a writable folder",
            code="ops.no-home",
        ) from error


@contextmanager
def building(target: Path) -> Iterator[bool]:
    """Make the folder of a library, and hold its lock while the block runs.

    Yields whether the library is missing, so that the block has to build it.

    Args:
        target: the library's file.

    Raises:
        UserError: nothing can be written to the folder, or loaded from it.
    """
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.statvfs(folder).f_flag & os.ST_NOEXEC:
            raise UserError(
                f"{folder} is on a file system from which nothing can be loaded (mounted noexec); {ELSEWHERE}",
                code="ops.noexec",
            )
        with _lock(folder / "lock"):
            yield not target.is_file()
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror or error}); set XDG_CACHE_HOME to a writable folder",
            code="ops.not-writable",
        ) from error


def digest(parts: Sequence[str]) -> str:
    """A short key of some texts, for the name of a folder."""
    return hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()[:16]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``. The system releases it when the process ends, in whatever way."""
    import fcntl  # not on every system; who builds has refused those

    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            logger.debug("no locks on the file system of %s: several processes may build the same", path)
        yield
