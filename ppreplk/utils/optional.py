"""Optional packages: whether one can be used here, and if not, why."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from .errors import UserError


def import_problem(module: str) -> str | None:
    """Import a module, and say in one line why that failed.

    A broken package may raise anything when it is imported, or even end the process. Everything but Ctrl-C counts.

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
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, ImportError) and reason:
            return reason
        return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return None


def import_optional(module: str, purpose: str, remedy: str, code: str) -> ModuleType:
    """The module, or one line that says why it cannot be imported.

    Args:
        module: its name.
        purpose: what needs it, the beginning of the message.
        remedy: what to do without it, the end of the message.
        code: of the error.

    Raises:
        UserError: it is missing or broken.
    """
    problem = import_problem(module)
    if problem is not None:
        raise UserError(f"{purpose} ({problem}); {remedy}", code=code)
    return sys.modules[module]
