"""A folder that one process at a time writes to."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError

LOCK = ".lock"

logger = logging.getLogger(__name__)


@contextmanager
def only_process_in(folder: Path, doing: str, setting: str) -> Iterator[None]:
    """Refuse other processes the same folder while the block runs. Where files cannot be locked, refuse nobody.

    The lock belongs to the process: the system releases it when the process ends, in whatever way, and processes that
    it has started do not hold it.

    Args:
        folder: exists and can be written to. A hidden file in it holds the lock, and stays.
        doing: what the processes do there, for the message.
        setting: key of the configuration that names the folder.

    Raises:
        UserError: another process does the same there; with its number.
    """
    try:
        import fcntl
    except ImportError:  # not on every system
        yield
        return
    try:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        message = f"cannot write {folder / LOCK} ({error.strerror or error})"
        raise UserError(message, code="utils.cannot-write", where=setting) from error
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UserError(
                f"{doing} writes to {folder} (process {os.pread(file, 20, 0).decode('ascii', 'replace')}); "
                "wait for it, stop it, or choose another folder",
                code="utils.folder-in-use",
                where=setting,
            ) from error
        except OSError as error:
            logger.debug("%s cannot be locked (%s)", folder, error.strerror or error)
        with suppress(OSError):  # on a full disk: the number is for the message alone
            os.ftruncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode("ascii"), 0)
        yield
    finally:
        os.close(file)
