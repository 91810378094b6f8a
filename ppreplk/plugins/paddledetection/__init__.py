"""Our networks inside PaddleDetection, and what the published detectors need that it lacks.

:func:`register` makes them known to its YAML files.
"""

from __future__ import annotations

import importlib

__all__ = ["register"]


def register() -> list[str]:
    """Add our backbones and the modules of :mod:`.det_modules` to the installed PaddleDetection. Twice is once.

    Returns:
        The names of the backbones in its YAML files.

    Raises:
        UserError: there is no PaddleDetection, or none that can be imported.
    """
    from .det_suite import SUITE

    SUITE.require()
    from ..suites import backbone_names

    for module in ("det_modules", "det_backbones"):
        importlib.import_module(f".{module}", __name__)
    return backbone_names()
