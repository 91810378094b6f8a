"""Effective receptive fields before and after training: the segmentation networks of the dense study."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ..data.digit_scenes import VAL, SceneMaker
from ..utils.atomic import make_folder
from ..utils.tables import Table
from .dense_study import SEGMENTATION, DenseRun, build_dense, evaluate_dense, fit_dense, to_input
from .erf_comparison import write_fields
from .receptive_field import mean_contribution_map

logger = logging.getLogger(__name__)

SCENES = 50  # held-out ones, as many images as the paper has
BEFORE, AFTER = "before training", "after training"


def field_study(kernels: Sequence[int], steps: int, output: str) -> Table:
    """Train networks that differ in their kernels, and measure their receptive fields before and after it.

    Writes ``field.npz`` (the maps), ``field.csv`` and ``field.md``.

    Args:
        kernels: sizes.
        steps: of each training.
        output: folder of the results.

    Returns:
        The areas of :func:`~ppreplk.analysis.erf_comparison.area_table`, two rows for each kernel size.

    Raises:
        UserError: a kernel size that is none, scikit-learn is missing, a run that diverges, or ``output`` cannot be
            written.
    """
    runs = [DenseRun(SEGMENTATION, kernel, 0, steps) for kernel in sorted({*kernels})]
    for run in runs:
        build_dense(run)  # all are checked before the first is trained
    folder = Path(output)
    make_folder(folder)
    maker = SceneMaker(VAL)
    images = [(f"scene {index}", to_input([maker.scene(index)])) for index in range(SCENES)]
    maps = {}
    for run in runs:
        network, logits = build_dense(run)
        name = f"{run.kernel}x{run.kernel}"
        maps[f"{name}, {BEFORE}"] = mean_contribution_map(network[0], images)
        fit_dense(run, network, logits)
        logger.info("%s: mIoU %.2f%%", name, 100 * evaluate_dense(logits, run.task))
        maps[f"{name}, {AFTER}"] = mean_contribution_map(network[0], images)
    return write_fields(maps, folder / "field", f"scenes: {SCENES}, {steps} steps")
