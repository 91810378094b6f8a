"""Optional packages: whether one can be used here, and if not, why."""

from __future__ import annotations

import importlib


def import_problem(module: str) -> str | None:
    """Import a module, and say in one line why that failed.

    A broken package may raise anything when it is imported, so every exception counts.

    Returns:
        The reason, or None if the module can be used. A package that is not there at all reads
        ``No module named 'NAME'``.

    >>> import_problem("json") is None
    True
    >>> import_problem("no_such_package")
    "No module named 'no_such_package'"
    """
    try:
        importlib.import_module(module)
    except Exception as error:
        reason = " ".join(str(error).split())
        if isinstance(error, ImportError) and reason:
            return reason
        return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return None
