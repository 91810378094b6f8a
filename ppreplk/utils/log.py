"""Log lines and the progress bar."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from .errors import UserError
from .rank import rank

FORMAT = "[%(asctime)s] %(levelname)s: %(message)s"
DATE_FORMAT = "%Y/%m/%d %H:%M:%S"
PACKAGE_LOGGER = logging.getLogger("ppreplk")


def log_to_terminal() -> None:
    """Send the package's messages to standard error. Of several processes, all but the first send errors alone."""
    if not PACKAGE_LOGGER.handlers:
        _add_handler(logging.StreamHandler(sys.stderr))
    PACKAGE_LOGGER.setLevel(logging.INFO if rank() == 0 else logging.ERROR)
    PACKAGE_LOGGER.propagate = False  # libraries install handlers of their own on the root logger


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append the package's messages to ``path`` too.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        handler = _add_handler(_LogFile(path, encoding="utf-8", errors="backslashreplace"))
    except OSError as error:
        message = f"cannot write the log {path} ({error.strerror or error})"
        raise UserError(message, code="utils.cannot-write") from error
    try:
        yield
    finally:
        PACKAGE_LOGGER.removeHandler(handler)
        handler.close()


class _LogFile(logging.FileHandler):
    """A log whose file can fill its disk: that is said once, and ends nothing."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.failed:
            self.failed = True
            PACKAGE_LOGGER.warning("cannot write the log %s (%s)", self.baseFilename, error.strerror or error)

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # what is still to be written meets the full disk again
            self.failed = True


def _add_handler(handler: logging.Handler) -> logging.Handler:
    handler.setFormatter(logging.Formatter(FORMAT, DATE_FORMAT))
    PACKAGE_LOGGER.addHandler(handler)
    return handler


@contextmanager
def progress(iterable: Iterable, total: int, description: str) -> Iterator[Any]:
    """Show a progress bar for ``iterable`` if standard error is a terminal. Log lines go above the bar."""
    with _bar(iterable, description, total) as bar:
        yield bar


@contextmanager
def progress_of_bytes(done: int, total: int | None, description: str) -> Iterator[Any]:
    """Show a progress bar for bytes, if standard error is a terminal: ``bar.update(count)`` for each piece.

    Args:
        done: bytes that are there already.
        total: all bytes; None where nobody knows.
        description: what the bar is about.
    """
    with _bar(None, description, total, initial=done, unit="B", unit_scale=True, unit_divisor=1024) as bar:
        yield bar


@contextmanager
def _bar(iterable: Iterable | None, description: str, total: int | None, **options: Any) -> Iterator[Any]:
    from tqdm import tqdm  # here, so that messages need no other package
    from tqdm.contrib.logging import logging_redirect_tqdm

    terminal = sys.stderr is not None and sys.stderr.isatty()  # None where it is closed
    redirected: AbstractContextManager = logging_redirect_tqdm([PACKAGE_LOGGER]) if terminal else nullcontext()
    hidden = not terminal or rank() > 0
    with redirected, tqdm(iterable, description, total, leave=False, disable=hidden, **options) as bar:
        yield bar
