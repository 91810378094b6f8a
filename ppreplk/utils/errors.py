"""The one exception type that means "the input is wrong", not "the program is wrong"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import partial
from typing import Any


class UserError(ValueError):
    """Bad input from the person running the program.

    The message is one line. It quotes what was received, says where, and says what to do. Command-line tools print
    it and exit with code 2. Any other exception is a defect and keeps its traceback.

    Args:
        message: the line.
        code: a stable name for the kind of mistake, ``ROOM.WHAT``, for example ``config.unknown-key``. Scripts and
            tests match it; the message may be reworded.
        where: the place, a file or a key of the configuration. It is put before the message.

    >>> error = UserError("expected a number, got 'ten'", code="config.wrong-type", where="Global.epochs")
    >>> str(error), error.code
    ("Global.epochs: expected a number, got 'ten'", 'config.wrong-type')
    """

    exit_code = 2

    def __init__(self, message: str, *, code: str = "input", where: str | None = None):
        # With a default for ``code``, pickle and paddle.jit can make the error again from its message alone.
        super().__init__(f"{where}: {message}" if where else message)
        self.code = code
        self.where = where

    def at(self, where: object) -> UserError:
        """The same error, with a place before its message."""
        return type(self)(str(self), code=self.code, where=str(where))

    def __reduce__(self) -> tuple[Any, ...]:
        """How the error travels from a loader process."""
        return partial(type(self), code=self.code), (str(self),), self.__dict__


class Incomplete(UserError):
    """The work is done and its results are kept, except for some of the input, which the message names.

    Command-line tools print it and exit with code 1.
    """

    exit_code = 1


def nearest(name: str, known: Iterable[str], listed: Iterable[str] | None = None) -> str:
    """The end of a message about an unknown name: the nearest known names.

    If none is near, it is all of them, or those in ``listed`` where all would be too many.
    """
    known = sorted(known)
    if not known:
        return "; there are none to choose from"
    by_folded = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(str(name).lower(), by_folded, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(by_folded[match] for match in close) + "?"
    return "; known: " + ", ".join(known if listed is None else sorted(listed))
