"""Our networks inside PaddleDetection, and what the published detectors need that it lacks.

:func:`register` makes them known to its YAML files. ``python -m ppreplk.plugins.paddledetection train -c CONFIG`` does
so and hands over to PaddleDetection's own tools; see :mod:`.__main__`. :class:`DetectionPredictor` runs what was
exported, without PaddleDetection.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .det_predictor import DetectionPredictor

__all__ = ["DetectionPredictor", "register"]


def register() -> list[str]:
    """Add our backbones and the modules that published detectors need to the installed PaddleDetection. Twice is once.

    They are in :mod:`.det_modules` and :mod:`.det_fcos`. What PaddleDetection needs to run with the installed Paddle is
    patched.

    Returns:
        The names of the backbones in its YAML files.

    Raises:
        UserError: there is no PaddleDetection, or none that can be imported.
    """
    from ..suites import backbone_names
    from .det_suite import SUITE

    SUITE.require()
    for module in ("det_modules", "det_fcos", "det_backbones"):
        importlib.import_module(f".{module}", __name__)
    importlib.import_module(".det_patches", __name__).patch()
    return backbone_names()


def __getattr__(name: str) -> Any:
    if name == "DetectionPredictor":  # which loads no network code
        return importlib.import_module(".det_predictor", __name__).DetectionPredictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
