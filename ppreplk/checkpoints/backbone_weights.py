"""Weights of any file in a backbone, which has no classifier."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Sequence

import numpy as np
from paddle import nn

from ..models.registry import architecture_of
from ..nn.merge import SMALL
from .apply import load_weights
from .convert import load_checkpoint

logger = logging.getLogger(__name__)


def load_backbone(network: nn.Layer, path: str) -> None:
    """Put weights of any file that :func:`ppreplk.weights.load_checkpoint` reads into a backbone.

    What only a classifier has is left out. What the file lacks starts from scratch if it is a parallel kernel, or a
    normalization that only a backbone has; then all of these must be missing. Log lines count both.

    Args:
        network: a backbone of ours.
        path: weights of a classifier, a backbone, or a whole network of mmseg, mmdet, PaddleSeg or PaddleDetection.

    Raises:
        UserError: no such file, or anything else is missing, left over or of another shape; or it is in merged form,
            and the network is not.
    """
    state = load_checkpoint(path)
    architecture = architecture_of(network)
    assert architecture is not None
    left_out = [name for name in state if _matches(name, architecture.classifier_only)]
    state = {name: array for name, array in state.items() if name not in left_out}
    own = network.state_dict()
    fresh: dict[str, np.ndarray] = {}
    for what, patterns in {
        "parallel kernels": [f"*{SMALL}.*"],
        "norms of features": architecture.backbone_only,
    }.items():
        names = [name for name in own if _matches(name, patterns)]
        if names and not any(name in state for name in names):
            fresh |= {name: own[name].numpy() for name in names}
            logger.warning("%s has no %s: %d arrays start from scratch", path, what, len(names))
    load_weights(network, {**state, **fresh}, path)
    logger.info(
        "%s: loaded %d arrays; left out %d of the classifier%s",
        *(path, len(own) - len(fresh), len(left_out), f", {len(fresh)} start from scratch" if fresh else ""),
    )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
