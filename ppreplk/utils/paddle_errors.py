"""Errors that Paddle's C++ code raises: many lines, one of which says what is wrong."""

from __future__ import annotations

PADDLE_ERRORS = (RuntimeError, ValueError, IndexError, MemoryError, OSError, SystemError)  # what they become in Python


def paddle_reason(error: Exception) -> str:
    """The line of an error that says what is wrong; the others say where. Of an error in one line, that line.

    >>> paddle_reason(ValueError("C++ stack:\\n0 paddle::f()\\n(InvalidArgument) sizes differ\\n  [Hint: a == b]"))
    '(InvalidArgument) sizes differ'
    >>> paddle_reason(RuntimeError())
    'RuntimeError'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error: " in line[:60] or line.startswith("(")]
    return (telling or lines or [type(error).__name__])[0]
