"""Our networks inside PaddleSeg: as backbones of its networks, in UperNet as the paper has it, through its own tools.

:func:`register` makes them available to ``paddleseg``'s configurations. The launcher registers and hands over:

    python -m ppreplk.plugins.paddleseg train --config CONFIG --save_dir FOLDER --do_eval

runs the tool of a source checkout, or the wheel without one; so do ``val`` and ``predict``. ``export`` folds the
backbone and proves the program, ``run`` shows what a program says about images, and ``digits`` writes a data set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .seg_predictor import SegmentationPredictor

__all__ = ["SegmentationPredictor", "register"]


def register() -> list[str]:
    """Add our backbones, and the model ``UPerNetRepLKNet``, to the installed PaddleSeg, patched where it needs it.

    Returns:
        The names that can stand as ``type`` in a configuration.

    Raises:
        UserError: there is no PaddleSeg, or none that can be imported.
    """
    from .seg_model import add_components
    from .seg_patches import patch

    names = add_components()
    patch()
    return names


def __getattr__(name: str) -> Any:
    if name != "SegmentationPredictor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .seg_predictor import SegmentationPredictor

    return SegmentationPredictor
